/**
 * entrepot as a process of its own, so that what it costs can be told from what the clients cost.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'

const ROOT = path.join(import.meta.dirname, '../..')
const SAMPLE_MS = 200

export class Server implements AsyncDisposable {
  readonly url: string
  readonly #process: ChildProcess
  readonly #folder: string
  readonly #sampler: NodeJS.Timeout
  #peak = 0

  private constructor(process: ChildProcess, url: string, folder: string) {
    this.#process = process
    this.url = url
    this.#folder = folder
    this.#sampler = setInterval(() => (this.#peak = Math.max(this.#peak, this.residentBytes())), SAMPLE_MS)
  }

  /** In front of that upstream, with an empty folder of its own, which goes with it. */
  static async start(upstream: string, cache: Record<string, unknown> = {}): Promise<Server> {
    const folder = mkdtempSync(path.join(tmpdir(), 'entrepot-bench-'))
    const file = path.join(folder, 'config.yaml')
    writeFileSync(
      file,
      // JSON is YAML.
      JSON.stringify({
        server: { port: 0 },
        storage: { root: path.join(folder, 'data') },
        cache,
        upstreams: { 'docker.io': { url: upstream, default: true } },
        log: { level: 'info' },
      }),
    )
    // As a user starts it, and not through npm: the process has to be the one we measure.
    const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
      scripts: { start: string }
    }
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
    return new Server(child, url, folder)
  }

  /** Now. Linux only. */
  residentBytes(): number {
    try {
      const status = readFileSync(`/proc/${String(this.#process.pid)}/status`, 'utf8')
      return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024
    } catch {
      return 0
    }
  }

  /** The highest of the samples so far. */
  get peakResidentBytes(): number {
    return Math.max(this.#peak, this.residentBytes())
  }

  /** User and system time of the process so far. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${String(this.#process.pid)}/stat`, 'utf8')
    // Fields 14 and 15, counted behind the command, which may hold anything; in ticks of 1/100 s.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#sampler)
    const ended = new Promise((resolve) => this.#process.once('exit', resolve))
    this.#process.kill('SIGTERM')
    await ended
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
