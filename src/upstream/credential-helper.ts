/**
 * Credentials from a `docker-credential-NAME` program, as docker runs it: `get`, the server on its standard
 * input, JSON on its standard output.
 *
 * It runs without a shell, for so long, says so much, and once for however many wait. What it says is kept to
 * ourselves: an error message may hold anything.
 */
import { execFile } from 'node:child_process'
import { unavailable, usable, areSame, type Credentials, type CredentialSource } from './credentials.ts'
import { abortable } from './manners.ts'
import { UpstreamError, type Milliseconds } from './upstream.ts'

export interface HelperOptions {
  /** Of the upstream. */
  readonly key: string
  /** `ecr-login` for `docker-credential-ecr-login`. */
  readonly name: string
  /** What it is asked for. */
  readonly server: string
  readonly log: { warn(fields: object, message: string): void }
  /** Monotonic. */
  readonly now: () => Milliseconds
  readonly timeoutMs?: Milliseconds | undefined
}

const LONGEST: Milliseconds = 10_000
const MAX_OUTPUT_BYTES = 64 * 1024
/** An answer is good for so long, and a failure, or one that upstream refuses again and again, for so long. */
const ANSWER_MEMORY: Milliseconds = 5 * 60_000
const FAILURE_MEMORY: Milliseconds = 10_000
/** Its words for "none", wherever it writes them. */
const NONE = /credentials not found in native keychain|no credentials server url|no credentials username/i

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
    const answer = this.#remembered() ?? (await abortable(this.#ask(), signal))
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
    this.#known = { answer, askedAt, until: askedAt + memory }
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
      // Whatever else it is: nothing of the program's may go along.
      return { error: unavailable(key, `docker-credential-${name} could not be run`) }
    }
  }

  /** `problem`: without a word of the program's own. */
  async #execute(): Promise<{ stdout: string; problem?: string }> {
    const { name, server } = this.#options
    const timeoutMs = Math.min(this.#options.timeoutMs ?? LONGEST, LONGEST)
    const late = AbortSignal.timeout(timeoutMs)
    const signal = AbortSignal.any([late, this.#closing.signal])
    const options = { signal, killSignal: 'SIGKILL', maxBuffer: MAX_OUTPUT_BYTES } as const
    return await new Promise((resolve) => {
      const child = execFile(`docker-credential-${name}`, ['get'], options, (error, stdout, stderr) => {
        if (error === null) resolve({ stdout })
        else if (late.aborted) resolve({ stdout, problem: `did not answer within ${timeoutMs / 1000} s` })
        else if (error.code === 'ENOENT') resolve({ stdout, problem: 'is not on the PATH' })
        else if (error.code === 'EACCES') resolve({ stdout, problem: 'may not be executed' })
        else if (error.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER')
          resolve({ stdout, problem: 'says too much' })
        else if (NONE.test(stdout + stderr)) resolve({ stdout: '' })
        else resolve({ stdout, problem: `failed (${ended(error)}); run it by hand to see why` })
      })
      // A program that leaves without reading is judged by what it said.
      child.stdin?.on('error', () => undefined)
      child.stdin?.end(server)
    })
  }

  #parse(stdout: string): Credentials | undefined {
    if (stdout === '') return undefined
    const { key, name } = this.#options
    const { Username, Secret } = fieldsOf(stdout)
    if (typeof Username !== 'string' || typeof Secret !== 'string') {
      throw unavailable(key, `docker-credential-${name} answered something that is no credentials`)
    }
    if (Username === '' && Secret === '') return undefined
    return usable(key, { username: Username, password: Secret })
  }
}

function ended(error: { code?: unknown; signal?: NodeJS.Signals | null | undefined }): string {
  return typeof error.code === 'number' ? `exit code ${error.code}` : (error.signal ?? 'not started')
}

function fieldsOf(json: string): { Username?: unknown; Secret?: unknown } {
  try {
    const value: unknown = JSON.parse(json)
    return typeof value === 'object' && value !== null ? value : {}
  } catch {
    return {}
  }
}
