/**
 * entrepot itself as a real process, started as `npm start` does.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { stringify } from 'yaml'
import { Program } from './programs.ts'

const START = join(import.meta.dirname, '../../src/start.js')

export interface EntrepotOptions {
  /** Its folder: the configuration file, and the storage unless `config` says otherwise. */
  readonly dir: string
  /** As it would be in the file; the port is a free one unless given. */
  readonly config?: Record<string, unknown>
  readonly env?: Record<string, string>
}

export class Entrepot {
  readonly program: Program
  #url = ''

  constructor(t: Test, { dir, config = {}, env = {} }: EntrepotOptions) {
    const file = join(dir, 'config.yaml')
    writeFileSync(file, stringify({ server: { port: 0 }, storage: { root: join(dir, 'data') }, ...config }))
    // No proxy and no entrepot setting of the machine that runs the tests.
    const bare = {
      PATH: process.env['PATH'],
      HOME: dir,
      NODE_EXTRA_CA_CERTS: process.env['NODE_EXTRA_CA_CERTS'],
    }
    this.program = new Program(t, process.execPath, [START, '--config', file], { ...bare, ...env })
  }

  static async start(t: Test, options: EntrepotOptions): Promise<Entrepot> {
    const entrepot = new Entrepot(t, options)
    await entrepot.program.ready(() => entrepot.#readAddress())
    return entrepot
  }

  get url(): string {
    return this.#url
  }

  get port(): string {
    return new URL(this.#url).port
  }

  /** The log so far. */
  get log(): Record<string, unknown>[] {
    const lines = this.program.stdout.split('\n').slice(0, -1)
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
  }

  /** The sum of a metric's series whose labels are these. */
  async metric(name: string, labels: Record<string, string> = {}): Promise<number> {
    const text = await (await fetch(`${this.#url}/metrics`)).text()
    const series = text
      .split('\n')
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    const chosen = series.filter((line) =>
      Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`)),
    )
    return chosen.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
  }

  #readAddress(): boolean {
    const ready = /^.*"url":"([^"]+)".*$/m.exec(this.program.stdout)
    this.#url = ready?.[1] ?? ''
    return ready !== null
  }
}
