/**
 * Credential source that runs a `docker-credential-NAME` program as docker does: `get`, the server on its standard
 * input, JSON on its standard output.
 *
 * The program runs without a shell, with a limit on its time and its output, and once for all waiting requests
 * (single-flight). Its output never goes into an error or the log: it may hold a secret.
 */
import type { Milliseconds } from '../../base/units.ts'
import { spawn, type ChildProcess } from 'node:child_process'
import { jsonObjectIn } from '../../oci/json.ts'
import { isOutOfFiles } from '../../base/open-files.ts'
import { unavailable, usable, areSame, type Credentials, type CredentialSource } from './credentials.ts'
import { toUpstreamError } from '../transport/errors.ts'
import { abandonable } from '../../base/condition.ts'
import { UpstreamError } from '../upstream.ts'

export interface HelperOptions {
  /** The upstream's key. */
  readonly key: string
  /** `ecr-login` for `docker-credential-ecr-login`. */
  readonly name: string
  /** The registry whose credentials it is asked for. */
  readonly server: string
  readonly log: { warn(fields: object, message: string): void }
  /** Monotonic. */
  readonly now: () => Milliseconds
  readonly timeoutMs?: Milliseconds | undefined
}

const LONGEST: Milliseconds = 10_000
const MAX_OUTPUT_LENGTH = 64 * 1024
/** How long an answer is cached, and a failure, or an answer that upstream refuses again and again. */
const ANSWER_MEMORY: Milliseconds = 5 * 60_000
const FAILURE_MEMORY: Milliseconds = 10_000
/** Helpers say so, on either output, when they have no credentials. */
const NONE = /credentials not found in native keychain|no credentials server url|no credentials username/i

const NOT_STARTED: Readonly<Record<string, string>> = {
  ENOENT: 'is not on the PATH',
  EACCES: 'may not be executed',
}

type Answer = { readonly credentials: Credentials | undefined } | { readonly error: UpstreamError }

export class HelperCredentials implements CredentialSource {
  readonly #options: HelperOptions
  readonly #closing = new AbortController()
  #known: { readonly answer: Answer; readonly askedAt: Milliseconds; until: Milliseconds } | undefined
  #running: Promise<Answer> | undefined
  #refused: Credentials | undefined

  constructor(options: HelperOptions) {
    this.#options = options
  }

  async get(signal: AbortSignal): Promise<Credentials | undefined> {
    const answer = this.#remembered() ?? (await abandonable(this.#ask(), signal))
    if ('error' in answer) throw answer.error
    return answer.credentials
  }

  rejected(credentials: Credentials): void {
    const known = this.#known
    if (known === undefined || !('credentials' in known.answer)) return
    if (known.answer.credentials === undefined || !areSame(known.answer.credentials, credentials)) return
    const again = this.#refused !== undefined && areSame(this.#refused, credentials)
    this.#refused = credentials
    known.until = again ? Math.min(known.until, known.askedAt + FAILURE_MEMORY) : known.askedAt
  }

  close(): void {
    this.#closing.abort(unavailable(this.#options.key, 'shutting down'))
  }

  #remembered(): Answer | undefined {
    const known = this.#known
    return known !== undefined && known.until > this.#options.now() ? known.answer : undefined
  }

  async #ask(): Promise<Answer> {
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined
    })
    return await this.#running
  }

  async #run(): Promise<Answer> {
    const { key, name, server, log, now } = this.#options
    const answer = await this.#answer()
    const askedAt = now()
    const memory = 'error' in answer ? FAILURE_MEMORY : ANSWER_MEMORY
    const isOurs = 'error' in answer && isOutOfFiles(answer.error)
    this.#known = { answer, askedAt, until: isOurs ? askedAt : askedAt + memory }
    if ('error' in answer) log.warn({ upstream: key, helper: name, err: answer.error }, 'no credentials')
    else if (answer.credentials === undefined) {
      log.warn({ upstream: key, helper: name, server }, 'the credential helper has none: asking without')
    }
    return answer
  }

  async #answer(): Promise<Answer> {
    const { key, name } = this.#options
    try {
      const { stdout, problem } = await this.#execute()
      if (problem === undefined) return { credentials: this.#parse(stdout) }
      return { error: unavailable(key, `docker-credential-${name} ${problem}`) }
    } catch (error) {
      if (error instanceof UpstreamError) return { error }
      if (isOutOfFiles(error)) return { error: toUpstreamError(key, key, error) }
      // Any other error may hold the program's output, so it is not passed on.
      return { error: unavailable(key, `docker-credential-${name} could not be run`) }
    }
  }

  /** @returns `problem` without a word of the program's own */
  async #execute(): Promise<{ stdout: string; problem?: string }> {
    const { name, server } = this.#options
    const timeoutMs = Math.min(this.#options.timeoutMs ?? LONGEST, LONGEST)
    const late = AbortSignal.timeout(timeoutMs)
    const signal = AbortSignal.any([late, this.#closing.signal])
    return await new Promise((resolve, reject) => {
      // A process group of its own, since many a helper is a script, and a program that it runs is what hangs.
      const child = spawn(`docker-credential-${name}`, ['get'], { detached: true })
      const said = { stdout: '', stderr: '' }
      const end = (problem?: string): void => {
        signal.removeEventListener('abort', stop)
        resolve({ stdout: said.stdout, ...(problem === undefined ? {} : { problem }) })
      }
      const stop = (): void => {
        endGroup(child)
        end(late.aborted ? `did not answer within ${timeoutMs / 1000} s` : 'was ended')
      }
      child.on('error', (error: NodeJS.ErrnoException) => {
        const { code = 'not started' } = error
        if (isOutOfFiles(error)) reject(error)
        else end(NOT_STARTED[code] ?? `failed (${code})`)
      })
      // Without a free file descriptor there are no streams, and only the event above tells so.
      if ((child.stdin as unknown) === undefined) return
      for (const stream of ['stdout', 'stderr'] as const) {
        child[stream].setEncoding('utf8').on('data', (text: string) => {
          said[stream] += text
          if (said[stream].length <= MAX_OUTPUT_LENGTH) return
          endGroup(child)
          end('says too much')
        })
      }
      child.on('close', (code, killedBy) => {
        if (code === 0) end()
        else if (NONE.test(said.stdout + said.stderr)) {
          said.stdout = ''
          end()
        } else end(`failed (${killedBy ?? `exit code ${code}`}); run it by hand to see why`)
      })
      // A program that ends without reading its input is judged by its output.
      child.stdin.on('error', () => undefined)
      child.stdin.end(server)
      if (signal.aborted) stop()
      else signal.addEventListener('abort', stop, { once: true })
    })
  }

  #parse(stdout: string): Credentials | undefined {
    if (stdout === '') return undefined
    const { key, name } = this.#options
    const { Username, Secret } = jsonObjectIn(stdout) ?? {}
    if (typeof Username !== 'string' || typeof Secret !== 'string') {
      throw unavailable(key, `docker-credential-${name} answered something that is no credentials`)
    }
    if (Username === '' && Secret === '') return undefined
    return usable(key, { username: Username, password: Secret })
  }
}

/** Kills the program and whatever it has started. */
function endGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  } catch {
    // The group has ended already.
  }
}
