/**
 * One request of a soak, and what is to be thought of its end.
 *
 * Every byte is compared. What may go wrong is decided here and nowhere else: an honest refusal, or a body that
 * breaks off, of what had to be fetched in a storm. What was here before the request and after it, and was served
 * from here before, has to be served, whatever the weather.
 */
import { statSync } from 'node:fs'
import { Readable } from 'node:stream'
import { Agent, request, type Dispatcher } from 'undici'
import { digestOf, type Digest } from '../../../src/oci/digest.ts'
import { blobPath } from '../../../src/storage/blobs/blob-path.ts'
import type { Weather } from './weather.ts'

/** Longer than any promise: who has heard nothing for so long hears nothing any more. */
const HANG_MS = 60_000

export interface Wish {
  readonly method?: 'GET' | 'HEAD'
  /** Below `/v2/`. */
  readonly path: string
  /** Undefined: what was pushed. */
  readonly upstream?: string
  /** What has to be here for nobody to be asked. */
  readonly needs?: readonly Digest[]
  /** Of a manifest: one of these. */
  readonly oneOf?: readonly Digest[]
  /** Of a blob. */
  readonly expected?: Buffer
  readonly range?: { readonly start: number; readonly end: number }
  /** There is none: 404. */
  readonly absent?: boolean
  /** The client leaves after so many bytes. */
  readonly leaveAfter?: number
}

export interface Failure {
  readonly atMs: number
  readonly what: string
  readonly why: string
}

export class Asking {
  requests = 0
  bytes = 0
  /** Refused, or broken off, in a storm. */
  injected = 0
  readonly failures: Failure[] = []
  readonly #url: string
  readonly #root: string
  readonly #weather: Weather
  readonly #agent = new Agent({ connections: null, headersTimeout: 0, bodyTimeout: 0 })
  /** Path -> the files it was answered from, once it was. */
  readonly #answeredFrom = new Map<string, string>()
  readonly #began = performance.now()

  constructor(url: string, root: string, weather: Weather) {
    this.#url = url
    this.#root = root
    this.#weather = weather
  }

  fail(what: string, why: string): void {
    this.failures.push({ atMs: performance.now() - this.#began, what, why })
  }

  /** Any other request: pushes, deletions. Undefined: it failed, and that has been said. */
  async send(
    method: Dispatcher.HttpMethod,
    path: string,
    { body, type, expected }: { body?: Buffer; type?: string; expected: readonly number[] },
  ): Promise<Dispatcher.ResponseData['headers'] | undefined> {
    this.requests += 1
    try {
      const answer = await request(new URL(path, `${this.#url}/v2/`), {
        method,
        ...(body === undefined ? {} : { body }),
        headers: type === undefined ? {} : { 'content-type': type },
        dispatcher: this.#agent,
        signal: AbortSignal.timeout(HANG_MS),
      })
      const text = await answer.body.text()
      if (expected.includes(answer.statusCode)) return answer.headers
      this.fail(`${method} ${path}`, `${String(answer.statusCode)} ${text}`)
    } catch (error) {
      this.fail(`${method} ${path}`, String(error))
    }
    return undefined
  }

  /** Sends a body of which half never comes. */
  async leaveUpload(path: string, bytes: Buffer): Promise<void> {
    this.requests += 1
    const leaving = new AbortController()
    const pieces = (async function* () {
      yield bytes
      leaving.abort()
      await new Promise((resolve) => setImmediate(resolve))
    })()
    const url = new URL(path, `${this.#url}/v2/`)
    const { signal } = leaving
    const type = { 'content-type': 'application/octet-stream' }
    try {
      const { body } = await request(url, {
        ...{ method: 'PATCH', body: Readable.from(pieces), headers: type, dispatcher: this.#agent, signal },
      })
      await body.dump()
    } catch {
      // That is what leaving looks like from here.
    }
  }

  /** The body of what was served whole and right. */
  async get(wish: Wish): Promise<Buffer | undefined> {
    this.requests += 1
    const before = this.#filesOf(wish)
    const begun = performance.now()
    const ended = await this.#ask(wish)
    if (ended.kind === 'served') {
      if (before !== undefined && before === this.#filesOf(wish) && ended.cache === 'hit') {
        this.#answeredFrom.set(wish.path, before)
      }
      return ended.body
    }
    if (ended.kind === 'left') return undefined
    const what = `${wish.method ?? 'GET'} ${wish.path}`
    const mustBeServed =
      before !== undefined && before === this.#filesOf(wish) && before === this.#answeredFrom.get(wish.path)
    const storm = this.#weather.stormy(wish.upstream, begun, performance.now())
    if (ended.kind === 'wrong') this.fail(what, ended.why)
    else if (!storm) this.fail(what, `${ended.why}, on a good day`)
    else if (mustBeServed) this.fail(what, `${ended.why}, although it was here`)
    else this.injected += 1
    return undefined
  }

  async #ask(wish: Wish): Promise<Ended> {
    const { method = 'GET', path, range, expected, absent = false, leaveAfter } = wish
    let status = 0
    const hanging = new AbortController()
    const timer = setTimeout(() => hanging.abort(), HANG_MS)
    try {
      const answer = await request(`${this.#url}/v2/${path}`, {
        method,
        headers:
          range === undefined ? {} : { range: `bytes=${String(range.start)}-${String(range.end - 1)}` },
        dispatcher: this.#agent,
        signal: hanging.signal,
      })
      status = answer.statusCode
      const { headers, body } = answer
      const good = status === 200 || status === 206
      const right = good && status === 206 ? expected?.subarray(range?.start, range?.end) : expected
      const kept: Buffer[] = []
      let length = 0
      let same = true
      for await (const chunk of body as AsyncIterable<Buffer>) {
        timer.refresh()
        if (good && right !== undefined) same &&= right.subarray(length, length + chunk.length).equals(chunk)
        else kept.push(chunk)
        length += chunk.length
        this.bytes += chunk.length
        if (leaveAfter !== undefined && length >= leaveAfter) return { kind: 'left' }
      }
      const text = Buffer.concat(kept)
      if (!good) return refusal(status, headers, text, absent, method)
      if (absent) return { kind: 'wrong', why: 'what nobody ever made was served' }
      const cache = String(headers['x-cache'])
      if (method === 'HEAD') return { kind: 'served', cache, body: text }
      if (right !== undefined) {
        if (same && length === right.length) return { kind: 'served', cache, body: text }
        // Part of a download that still runs: nobody has promised that it is verified.
        return { kind: status === 206 && cache !== 'hit' ? 'broken' : 'wrong', why: 'wrong bytes' }
      }
      const digest = digestOf(text)
      if (wish.oneOf?.includes(digest) === false) return { kind: 'wrong', why: `was answered with ${digest}` }
      return { kind: 'served', cache, body: text }
    } catch (error) {
      if (hanging.signal.aborted) return { kind: 'wrong', why: 'hangs' }
      const { message } = error as Error
      return status === 0
        ? { kind: 'wrong', why: `no answer: ${message}` }
        : { kind: 'broken', why: `${String(status)} broke off: ${message}` }
    } finally {
      clearTimeout(timer)
    }
  }

  /** All the files there, by what tells a file from another of its name; undefined where one is missing. */
  #filesOf({ needs }: Wish): string | undefined {
    if (needs === undefined) return undefined
    try {
      return needs
        .map((digest) => statSync(blobPath(this.#root, digest)))
        .map(({ ino, mtimeMs }) => `${String(ino)} ${String(mtimeMs)}`)
        .join()
    } catch {
      return undefined
    }
  }

  /** With all connections. */
  async leave(): Promise<void> {
    await this.#agent.destroy()
  }
}

type Ended =
  | { readonly kind: 'served'; readonly cache: string; readonly body: Buffer }
  | { readonly kind: 'left' }
  | { readonly kind: 'refused' | 'broken' | 'wrong'; readonly why: string }

function refusal(
  status: number,
  headers: Dispatcher.ResponseData['headers'],
  body: Buffer,
  absent: boolean,
  method: string,
): Ended {
  const said = method === 'HEAD' ? '' : ` ${body.toString()}`
  if (absent && status === 404) return { kind: 'served', cache: 'absent', body }
  if (![429, 502, 503, 504].includes(status)) return { kind: 'wrong', why: `${String(status)}${said}` }
  const readable = method === 'HEAD' || headers['content-type'] === 'application/json'
  return { kind: readable ? 'refused' : 'wrong', why: `${String(status)}${said}` }
}
