/**
 * entrepot itself as a real process, started as `npm start` does.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { stringify } from 'yaml'
import { Program, run, type Finished } from './programs.ts'

const START = join(import.meta.dirname, '../../src/app/start.js')

export interface EntrepotOptions {
  /** Its folder: the configuration file, and the storage unless `config` says otherwise. */
  readonly dir: string
  /** As it would be in the file; the port is a free one unless given. */
  readonly config?: Record<string, unknown>
  readonly env?: Record<string, string>
  /** Of Node, before the program. */
  readonly execArgv?: readonly string[]
}

/** The command line of an entrepot with that configuration, for whoever starts it in a way of their own. */
export function commandLine({ dir, config = {}, env = {}, execArgv = [] }: EntrepotOptions) {
  const file = join(dir, 'config.yaml')
  writeFileSync(file, stringify({ server: { port: 0 }, storage: { root: join(dir, 'data') }, ...config }))
  // No proxy and no entrepot setting of the machine that runs the tests.
  const bare = { PATH: process.env['PATH'], HOME: dir }
  return { command: process.execPath, args: [...execArgv, START, '--config', file], env: { ...bare, ...env } }
}

/** A command of it, run to its end: `gc --dry-run`. */
export function entrepot(options: EntrepotOptions, ...words: string[]): Promise<Finished> {
  const { command, args, env } = commandLine(options)
  const [config, file] = args.slice(-2) as [string, string]
  return run(command, [...args.slice(0, -2), ...words, config, file], { env, timeoutMs: 30_000 })
}

export class Entrepot {
  readonly program: Program
  #url = ''

  constructor(program: Program) {
    this.program = program
  }

  static async start(t: Test, options: EntrepotOptions): Promise<Entrepot> {
    const { command, args, env } = commandLine(options)
    return Entrepot.follow(new Program(t, command, args, env))
  }

  /** One that somebody else started, from its start line on. */
  static async follow(program: Program): Promise<Entrepot> {
    const entrepot = new Entrepot(program)
    await program.ready(() => entrepot.#readAddress())
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

  /** Waits for a line with that message. */
  async logged(message: string): Promise<void> {
    await this.program.ready(() => this.log.some(({ msg }) => msg === message))
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
    const ready = /"url":"([^"]+)"/.exec(this.program.stdout)
    this.#url = ready?.[1] ?? ''
    return ready !== null
  }
}
