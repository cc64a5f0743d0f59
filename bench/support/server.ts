/**
 * entrepot as a process of its own, so that what it costs can be told from what the clients cost.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { cpuSeconds, residentBytes } from './measured.ts'

const START = path.join(import.meta.dirname, '../../src/app/start.js')
const ROOT = path.join(import.meta.dirname, '../..')
const SAMPLE_MS = 200
/** A command that takes longer hangs. */
const COMMAND_MS = 120_000

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
  /** `storage.root` */
  readonly root: string
  /** Lines of its log that are errors, or worse. */
  alarms: readonly string[] = []
  readonly #process: ChildProcess
  readonly #sampler: NodeJS.Timeout
  #peak = 0

  private constructor(
    process: ChildProcess,
    started: { url: string; folder: string; root: string; readyMs: number },
  ) {
    this.#process = process
    this.url = started.url
    this.folder = started.folder
    this.root = started.root
    this.readyMs = started.readyMs
    this.#sampler = setInterval(() => (this.#peak = Math.max(this.#peak, this.residentBytes())), SAMPLE_MS)
  }

  /** In front of that upstream. */
  static async start(
    upstream: string,
    { cache = {}, root: given, config = {} }: ServerOptions = {},
  ): Promise<Server> {
    const folder = mkdtempSync(path.join(tmpdir(), 'entrepot-bench-'))
    const root = given ?? path.join(folder, 'data')
    writeConfig(folder, {
      storage: { root },
      cache,
      upstreams: { 'docker.io': { url: upstream, default: true } },
      ...config,
    })
    // As a user starts it, and not through npm: the process has to be the one we measure.
    const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
      scripts: { start: string }
    }
    const began = performance.now()
    const child = spawn('sh', ['-c', `${scripts.start} --config "$0"`, configIn(folder)], {
      cwd: ROOT,
      env: environment(),
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const lines = createInterface({ input: child.stdout })
    const alarms: string[] = []
    const url = await new Promise<string>((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`entrepot ended with ${String(code)}`)))
      lines.on('line', (line) => {
        if (line.startsWith('{"level":"error"') || line.startsWith('{"level":"fatal"')) alarms.push(line)
        const [, said] = /"url":"(http[^"]+)"/.exec(line) ?? []
        if (said !== undefined) resolve(said)
      })
    })
    const server = new Server(child, { url, folder, root, readyMs: performance.now() - began })
    server.alarms = alarms
    return server
  }

  /** The configuration is another one from now on, but for the folder. */
  reconfigure(config: Record<string, unknown>): void {
    writeConfig(this.folder, { storage: { root: this.root }, ...config })
    this.#process.kill('SIGHUP')
  }

  /** A command of entrepot beside it, run to its end: `['gc', '--dry-run']`. */
  async command(words: readonly string[]): Promise<{ code: number | null; output: string }> {
    const child = spawn(process.execPath, [START, ...words, '--config', configIn(this.folder)], {
      env: environment(),
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: COMMAND_MS,
      killSignal: 'SIGKILL',
    })
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
    const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
    return { code: await ended, output: stdout + stderr }
  }

  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null
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
    if (this.running) {
      const ended = new Promise((resolve) => this.#process.once('exit', resolve))
      this.#process.kill('SIGTERM')
      await ended
    }
    rmSync(this.folder, { recursive: true, force: true })
  }
}

function configIn(folder: string): string {
  return path.join(folder, 'config.yaml')
}

/** JSON is YAML. */
function writeConfig(folder: string, config: Record<string, unknown>): void {
  writeFileSync(configIn(folder), JSON.stringify({ server: { port: 0 }, log: { level: 'info' }, ...config }))
}

function environment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${path.dirname(process.execPath)}:${process.env['PATH'] ?? ''}` }
}
