/**
 * A small ext4 of its own, in a file, that can be frozen as a snapshot of a volume freezes it; only root may mount it.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, ftruncateSync, mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { missingAsRoot } from './programs.ts'

const MiB = 1024 * 1024

export interface LoopDisk extends Disposable {
  readonly folder: string
  /** Whoever writes to it waits, until it is thawed. */
  freeze(): void
  thaw(): void
}

function run(...command: [string, ...string[]]): void {
  const { status, stderr } = spawnSync(command[0], command.slice(1))
  if (status !== 0) throw new Error(`${command.join(' ')}: ${String(stderr)}`)
}

/** Nothing on it may be open any more when it is disposed; then it is thawed and gone, whatever happens. */
export function mountLoopDisk(size = 256 * MiB): LoopDisk {
  const home = mkdtempSync(path.join(tmpdir(), 'entrepot-'))
  const image = path.join(home, 'image')
  const folder = path.join(home, 'mounted')
  mkdirSync(folder)
  const file = openSync(image, 'w')
  ftruncateSync(file, size)
  closeSync(file)
  let frozen = false
  const thaw = (): void => {
    if (frozen) spawnSync('fsfreeze', ['--unfreeze', folder])
    frozen = false
  }
  const gone = (): void => {
    process.off('exit', gone)
    thaw()
    if (spawnSync('umount', [folder]).status !== 0) spawnSync('umount', ['--lazy', folder])
    rmSync(home, { recursive: true, force: true })
  }
  // The test process may end without its teardowns, by a time-out of the runner.
  process.on('exit', gone)
  try {
    run('mkfs.ext4', '-q', image)
    run('mount', '-o', 'loop', image, folder)
  } catch (error) {
    gone()
    throw error
  }
  return {
    folder,
    freeze: () => {
      run('fsfreeze', '--freeze', folder)
      frozen = true
    },
    thaw,
    [Symbol.dispose]: gone,
  }
}

/** What is missing for one, or false. */
export function missingLoopDisk(): string | false {
  const absent = missingAsRoot('mkfs.ext4', 'mount', 'fsfreeze')
  if (absent !== false) return absent
  try {
    using _disk = mountLoopDisk(8 * MiB)
    return false
  } catch {
    return 'no loop devices here'
  }
}
