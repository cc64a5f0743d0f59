/**
 * Real programs: found or named as missing, started, waited for, and gone after the test whatever happens.
 *
 * A program is ended by its own process id and group, never by name: others of that name may run here.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { accessSync, constants, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'

/** Daemons live in sbin, which is not on everybody's PATH. */
const FOLDERS = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/local/sbin']

export function findCommand(name: string): string | undefined {
  return FOLDERS.map((folder) => join(folder, name)).find((path) => {
    try {
      accessSync(path, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** For the options of a test: what is missing to run it, or false. */
export function missing(...commands: string[]): string | false {
  const absent = commands.filter((command) => findCommand(command) === undefined)
  if (absent.length > 0) return `not installed here: ${absent.join(', ')}`
  return false
}

/** The same, for programs that only root may run. */
export function missingAsRoot(...commands: string[]): string | false {
  return missing(...commands) || (process.getuid?.() !== 0 && 'needs root')
}

/** A port nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Directly under the system's temporary folder: the names of sockets end at 104 characters. */
export function shortDir(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'e-'))
  t.teardown(async () => {
    await unmountBelow(dir)
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  return dir
}

/** A daemon that was killed leaves the mounts of its containers behind. */
async function unmountBelow(dir: string): Promise<void> {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n')
  const points = mounts.map((line) => line.split(' ')[1] ?? '').filter((point) => point.startsWith(`${dir}/`))
  for (const point of points.reverse()) await run('umount', ['-l', point])
}

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs to its end; whatever that is. */
export async function run(
  command: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string; timeoutMs?: number } = {},
): Promise<Finished> {
  const child = spawn(findCommand(command) ?? command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    cwd: options.cwd,
    timeout: options.timeoutMs ?? 90_000,
    killSignal: 'SIGKILL',
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const code = await new Promise<number | null>((resolve, reject) =>
    child.on('error', reject).on('close', resolve),
  )
  return { code, stdout, stderr }
}

/** Runs to a good end, or fails with what the program said. */
export async function succeed(...args: Parameters<typeof run>): Promise<string> {
  const { code, stdout, stderr } = await run(...args)
  if (code !== 0)
    throw new Error(`${args[0]} ${args[1].join(' ')} ended with ${String(code)}:\n${stderr || stdout}`)
  return stdout
}

/** Whoever starts a program, and runs this when all is over: a test. */
export interface Owner {
  teardown(clean: () => unknown): void
}

/** A program that runs until it is told to stop. */
export class Program {
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  stdout = ''
  stderr = ''
  readonly #child: ChildProcess
  #running = true

  constructor(owner: Owner, command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    // A group of its own, so that what it starts can be ended with it.
    const child = spawn(findCommand(command) ?? command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env,
      detached: true,
    })
    this.#child = child
    child.stdout.setEncoding('utf8').on('data', (text: string) => (this.stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.stderr += text))
    const killGroup = (): void => this.#killGroup()
    // The test process may end without its teardowns, by a time-out of the runner.
    process.on('exit', killGroup)
    this.exited = new Promise((resolve) => {
      child.on('error', (error) => {
        this.stderr += String(error)
        resolve({ code: null, signal: null })
      })
      child.on('exit', (code, signal) => {
        this.#running = false
        process.off('exit', killGroup)
        // Its last words may still be in the pipe; something it started may hold that open for ever.
        const settle = (): void => resolve({ code, signal })
        child.on('close', settle)
        setTimeout(settle, 500).unref()
      })
    })
    owner.teardown(() => this.stop())
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  get output(): string {
    return this.stdout + this.stderr
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** Waits until `ready` answers true; fails when the program ends before, or after `timeoutMs`. */
  async ready(ready: () => boolean | Promise<boolean>, timeoutMs = 60_000): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!(await ready())) {
      if (!this.#running)
        throw new Error(`${this.#child.spawnfile} ended before it was ready:\n${this.output}`)
      if (performance.now() > deadline)
        throw new Error(`${this.#child.spawnfile} is not ready:\n${this.output}`)
      await sleep(25)
    }
  }

  /** SIGTERM, and SIGKILL to the whole group when that does not help. */
  async stop(graceMs = 10_000): Promise<void> {
    if (this.#running) {
      this.#child.kill('SIGTERM')
      const timer = setTimeout(() => this.#killGroup(), graceMs)
      await this.exited
      clearTimeout(timer)
    }
    this.#killGroup()
  }

  #killGroup(): void {
    try {
      if (this.#child.pid !== undefined) process.kill(-this.#child.pid, 'SIGKILL')
    } catch {
      // Nobody is left in it.
    }
  }
}
