/**
 * The servers of the fault matrix, started as `npm start` does: one on a disk with room, and one on a disk without.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import { Entrepot } from './process.ts'
import { Program, type Owner } from './programs.ts'
import { wrongAtRest } from './matrix-footprint.ts'
import { mountTmpfs, type Volume } from './tmpfs.ts'

const ROOT = path.join(import.meta.dirname, '../..')
const MiB = 1024 * 1024
/** An index, and what it takes to open it. */
const DISK = 16 * MiB

/** @param dir  for the configuration */
export async function startAsUsersDo(
  owner: Owner,
  dir: string,
  root: string,
  upstreams: Record<string, unknown>,
  cache: Record<string, unknown> = {},
): Promise<Entrepot> {
  const file = path.join(dir, `${path.basename(root)}.yaml`)
  // JSON is YAML.
  writeFileSync(
    file,
    JSON.stringify({ server: { port: 0 }, storage: { root }, cache: { tagTtl: 0, ...cache }, upstreams }),
  )
  const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
    scripts: { start: string }
  }
  // Without npm between: the process has to be the one that is measured. No proxy and no setting of this machine.
  const env = {
    PATH: `${path.dirname(process.execPath)}:${process.env['PATH'] ?? ''}`,
    HOME: dir,
    NODE_OPTIONS: `--import=${path.join(import.meta.dirname, 'collect-garbage.ts')}`,
  }
  const command = `cd "$1" && ${scripts.start} --config "$0"`
  return Entrepot.follow(new Program(owner, 'sh', ['-c', command, file, ROOT], env))
}

/** A server, and a file system of its own on which there is no room for anything. */
export class FullDisk {
  readonly entrepot: Entrepot
  readonly #volume: Volume
  readonly #root: string
  readonly #ballast: string

  private constructor(entrepot: Entrepot, volume: Volume, root: string) {
    this.entrepot = entrepot
    this.#volume = volume
    this.#root = root
    this.#ballast = path.join(volume.folder, 'ballast')
  }

  static async start(owner: Owner, dir: string, upstreams: Record<string, unknown>): Promise<FullDisk> {
    const volume = mountTmpfs(DISK)
    // After the server: what it has open keeps the file system busy.
    owner.teardown(() => volume[Symbol.dispose]())
    const root = path.join(volume.folder, 'full')
    const entrepot = await startAsUsersDo(owner, dir, root, upstreams, { minFree: '0B' })
    const full = new FullDisk(entrepot, volume, root)
    full.#fill()
    return full
  }

  /** Ends it, and looks at what it has left. Sentences. */
  async wrong(): Promise<string[]> {
    await this.entrepot.program.stop()
    const file = openSync(this.#ballast, 'r+')
    ftruncateSync(file)
    closeSync(file)
    return wrongAtRest(this.#root).map((it) => `${this.#volume.folder}: ${it}`)
  }

  /** To the last byte. */
  #fill(): void {
    const file = openSync(this.#ballast, 'w')
    try {
      for (let size = MiB; size >= 1;) {
        try {
          writeSync(file, Buffer.alloc(size))
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
          size = Math.floor(size / 2)
        }
      }
    } finally {
      closeSync(file)
    }
  }
}
