/**
 * entrepot as a process of its own, so that what it costs can be told from what the clients cost.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { cpuSeconds, residentBytes } from './measured.ts'

const ROOT = path.join(import.meta.dirname, '../..')
const SAMPLE_MS = 200

export interface ServerOptions {
  readonly cache?: Record<string, unknown>
  /** `storage.root`, which stays; else a folder of its own, which goes with it. */
  readonly root?: string
  /** Further parts of the configuration; of `upstreams` all of them. */
  readonly config?: Record<string, unknown>
}

export class Server implements AsyncDisposable {
  readonly url: string
  /** From the call to the start line. */
  readonly readyMs: number
  /** Where it keeps everything. */
  readonly folder: string
  readonly #process: ChildProcess
  readonly #sampler: NodeJS.Timeout
  #peak = 0

  private constructor(process: ChildProcess, url: string, folder: string, readyMs: number) {
    this.#process = process
    this.url = url
    this.folder = folder
    this.readyMs = readyMs
    this.#sampler = setInterval(() => (this.#peak = Math.max(this.#peak, this.residentBytes())), SAMPLE_MS)
  }

  /** In front of that upstream. */
  static async start(
    upstream: string,
    { cache = {}, root, config = {} }: ServerOptions = {},
  ): Promise<Server> {
    const folder = mkdtempSync(path.join(tmpdir(), 'entrepot-bench-'))
    const file = path.join(folder, 'config.yaml')
    writeFileSync(
      file,
      // JSON is YAML.
      JSON.stringify({
        server: { port: 0 },
        storage: { root: root ?? path.join(folder, 'data') },
        cache,
        upstreams: { 'docker.io': { url: upstream, default: true } },
        log: { level: 'info' },
        ...config,
      }),
    )
    // As a user starts it, and not through npm: the process has to be the one we measure.
    const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
      scripts: { start: string }
    }
    const began = performance.now()
    const child = spawn('sh', ['-c', `${scripts.start} --config "$0"`, file], {
      cwd: ROOT,
      env: { ...process.env, PATH: `${path.dirname(process.execPath)}:${process.env['PATH'] ?? ''}` },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const lines = createInterface({ input: child.stdout })
    const url = await new Promise<string>((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`entrepot ended with ${String(code)}`)))
      lines.on('line', (line) => {
        const said = JSON.parse(line) as { url?: string }
        if (said.url !== undefined) resolve(said.url)
      })
    })
    return new Server(child, url, folder, performance.now() - began)
  }

  get pid(): number | undefined {
    return this.#process.pid
  }

  /** Now. */
  residentBytes(): number {
    return residentBytes(this.pid)
  }

  /** The highest of the samples so far. */
  get peakResidentBytes(): number {
    return Math.max(this.#peak, this.residentBytes())
  }

  /** User and system time of the process so far. */
  cpuSeconds(): number {
    return cpuSeconds(this.pid)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#sampler)
    const ended = new Promise((resolve) => this.#process.once('exit', resolve))
    this.#process.kill('SIGTERM')
    await ended
    rmSync(this.folder, { recursive: true, force: true })
  }
}
