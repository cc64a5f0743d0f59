/**
 * A small file system of its own, in memory; only root may mount it.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

export const mountable = spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt']).status === 0

/** Options of a test that mounts something. */
export const needsMount = mountable ? {} : { skip: 'mount: only root may' }

export interface Volume extends Disposable {
  readonly folder: string
  remount(option: string): void
}

/** Nothing on it may be open any more when it is disposed; then it is gone, whatever happens. */
export function mountTmpfs(size: number): Volume {
  const folder = mkdtempSync(path.join(tmpdir(), 'entrepot-'))
  const run = (...command: [string, ...string[]]): void => {
    const { status, stderr } = spawnSync(command[0], command.slice(1))
    if (status !== 0) throw new Error(`${command.join(' ')}: ${String(stderr)}`)
  }
  run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'entrepot-test', folder)
  return {
    folder,
    remount: (option) => run('mount', '-o', `remount,${option}`, folder),
    [Symbol.dispose]: () => {
      try {
        run('umount', folder)
      } finally {
        spawnSync('umount', ['-l', folder])
        rmdirSync(folder)
      }
    },
  }
}
