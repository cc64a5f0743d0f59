/**
 * The client of the fault matrix: pulls a whole image once, looks at every byte, and tries nothing twice.
 *
 * It believes nobody: not the length, not the digest header, not that an answer comes at all. What a real client
 * would do about a failure is the emulators' business.
 */
import { Agent, type Dispatcher } from 'undici'
import { digestOf } from '../../src/oci/digest.ts'
import type { Ending } from './faults/fault.ts'

/**
 * What must never be seen:
 *
 * - `wrong bytes`: a complete answer that is not what it claims to be
 * - `hang`: not at its end within the budget
 * - `no answer`: a connection that closed without a word
 * - `bad refusal`: an error that no client can read
 */
export const UNACCEPTABLE = ['wrong bytes', 'hang', 'no answer', 'bad refusal'] as const
export type Unacceptable = (typeof UNACCEPTABLE)[number]

/** From best to worst: a pull ends like the worst of its answers. */
const ORDER = ['served', 'refused', 'broken', 'bad refusal', 'no answer', 'hang', 'wrong bytes'] as const
export type Outcome = Ending | Unacceptable

export interface Answered {
  /** For people: `manifest 1`, `layer sha256:… bytes=10-20`. */
  readonly what: string
  readonly outcome: Outcome
  /** 0: none came. */
  readonly status: number
  /** The word of `X-Cache`. */
  readonly cache: string | undefined
  /** Until the head was there. */
  readonly headMs: number
  readonly bytes: Buffer | undefined
  /** The message of a refusal. */
  readonly message: string | undefined
  /** Its beginning was wrong, though it was never completed as if it were right. */
  readonly wrongPrefix: boolean
  /** Part of a download that is still running: nobody promised that it is verified. */
  readonly unverified: boolean
}

export interface PullOptions {
  /** `http://127.0.0.1:5000/v2/KEY/NAME` */
  readonly base: string
  readonly tag: string
  /** The right bytes of everything that may be answered; undefined for what nobody ever made. */
  readonly known: (digest: string) => Buffer | undefined
  readonly agent: Agent
  /** The end of the budget. */
  readonly signal: AbortSignal
  /** Asks for a part of every layer as well. */
  readonly ranges?: boolean
  /** Body bytes of a blob so far. */
  readonly onProgress?: (digest: string, bytes: number) => void
}

export interface Pull {
  readonly outcome: Outcome
  readonly answers: readonly Answered[]
  readonly durationMs: number
}

/** One agent for all clients of a cell; a connection for each request that is on its way. */
export function newAgent(): Agent {
  return new Agent({ connections: null, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 })
}

/** Manifest by tag, the first child where that is an index, then config and layers at once. */
export async function pullImage(options: PullOptions): Promise<Pull> {
  const startedAt = performance.now()
  const answers: Answered[] = []
  const add = async (asked: Promise<Answered>): Promise<Answered> => {
    const answer = await asked
    answers.push(answer)
    return answer
  }
  let manifest = readManifest(await add(askManifest(options, options.tag)))
  const child = manifest?.manifests?.[0]
  if (child !== undefined) manifest = readManifest(await add(askManifest(options, child.digest)))
  if (manifest !== undefined) {
    const { config, layers = [] } = manifest
    const blobs = [...(config === undefined ? [] : [config]), ...layers]
    await Promise.all(
      blobs.flatMap(({ digest, size }) => [
        add(askBlob(options, digest)),
        // The middle half.
        ...(options.ranges === true
          ? [add(askBlob(options, digest, { start: Math.floor(size / 4), end: Math.ceil(size * 0.75) }))]
          : []),
      ]),
    )
  }
  const outcome = ORDER.findLast((it) => answers.some((answer) => answer.outcome === it)) ?? 'served'
  return { outcome, answers, durationMs: performance.now() - startedAt }
}

/** Whatever is sent for what nobody ever made is wrong. */
const NOTHING = Buffer.alloc(0)

interface Descriptor {
  readonly digest: string
  readonly size: number
}

interface Manifest {
  readonly manifests?: readonly Descriptor[]
  readonly config?: Descriptor
  readonly layers?: readonly Descriptor[]
}

function readManifest({ outcome, bytes }: Answered): Manifest | undefined {
  return outcome === 'served' && bytes !== undefined ? (JSON.parse(bytes.toString()) as Manifest) : undefined
}

async function askManifest(options: PullOptions, reference: string): Promise<Answered> {
  const raw = await ask(options, `/manifests/${reference}`)
  const digest = digestOf(raw.body)
  const named = raw.headers['docker-content-digest']
  const right = reference.includes(':') ? digest === reference : options.known(digest) !== undefined
  return judge(`manifest ${reference}`, raw, right && (named === undefined || named === digest))
}

async function askBlob(
  options: PullOptions,
  digest: string,
  range?: { start: number; end: number },
): Promise<Answered> {
  const blob = options.known(digest) ?? NOTHING
  const part = blob.subarray(range?.start, range?.end)
  const header = range === undefined ? undefined : `bytes=${range.start}-${range.end - 1}`
  const raw = await ask(options, `/blobs/${digest}`, {
    range: header,
    expected: (status) => (status === 206 ? part : blob),
    onProgress: range === undefined ? (bytes) => options.onProgress?.(digest, bytes) : undefined,
  })
  const whole = raw.length === (raw.status === 206 ? part.length : blob.length)
  return judge(`blob ${digest.slice(7, 19)} ${header ?? ''}`.trimEnd(), raw, raw.same && whole)
}

/** One request as it ended, not yet judged. */
interface Raw {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  /** Of errors and manifests; blobs are not kept. */
  readonly body: Buffer
  readonly length: number
  /** No byte so far differs from what was expected. */
  readonly same: boolean
  readonly ended: 'whole' | 'broken' | 'late'
  readonly headMs: number
}

function judge(what: string, raw: Raw, right: boolean): Answered {
  const { status, headers, body, ended, headMs, same } = raw
  const cache = headers['x-cache']
  const good = status === 200 || status === 206
  const unverified = status === 206 && cache !== 'hit'
  const wrong = good && ended === 'whole' && !right
  const message = ociError(headers['content-type'], body)
  const outcome = (): Outcome => {
    if (ended === 'late') return 'hang'
    if (status === 0) return 'no answer'
    if (ended === 'broken') return 'broken'
    if (!good) return message === undefined ? 'bad refusal' : 'refused'
    return wrong && !unverified ? 'wrong bytes' : 'served'
  }
  return {
    what,
    outcome: outcome(),
    status,
    cache: typeof cache === 'string' ? cache : undefined,
    headMs,
    bytes: good ? body : undefined,
    message,
    wrongPrefix: good && ended !== 'whole' && !same,
    unverified: wrong && unverified,
  }
}

/** Undefined: no client could read it. */
function ociError(type: string | string[] | undefined, body: Buffer): string | undefined {
  if (type !== 'application/json') return undefined
  try {
    const { errors } = JSON.parse(body.toString()) as { errors: { code: unknown; message: unknown }[] }
    const [first] = errors
    return typeof first?.code === 'string' && typeof first.message === 'string'
      ? `${first.code}: ${first.message}`
      : undefined
  } catch {
    return undefined
  }
}

interface Wish {
  readonly range?: string | undefined
  /** Compared as it comes; without it the body is kept. */
  readonly expected?: (status: number) => Buffer
  readonly onProgress?: ((bytes: number) => void) | undefined
}

/** Never rejects: whatever happens is something that a client has seen. */
function ask({ base, agent, signal }: PullOptions, path: string, wish: Wish = {}): Promise<Raw> {
  return new Promise((resolve) => {
    const url = new URL(base + path)
    const startedAt = performance.now()
    const chunks: Buffer[] = []
    let [length, status, headMs, same] = [0, 0, 0, true]
    let headers: Raw['headers'] = {}
    let expected: Buffer | undefined
    let controller: Dispatcher.DispatchController | undefined
    const giveUp = (): void => {
      settle('late')
      controller?.abort(new Error('over the budget'))
    }
    const settle = (ended: Raw['ended']): void => {
      signal.removeEventListener('abort', giveUp)
      if (status === 0) headMs = performance.now() - startedAt
      resolve({ status, headers, body: Buffer.concat(chunks), length, same, ended, headMs })
    }
    if (signal.aborted) {
      settle('late')
      return
    }
    signal.addEventListener('abort', giveUp, { once: true })
    const { range } = wish
    const headersSent = range === undefined ? {} : { range }
    agent.dispatch(
      { origin: url.origin, path: url.pathname, method: 'GET', headers: headersSent },
      {
        onRequestStart: (given) => {
          controller = given
        },
        onResponseStart: (_controller, code, got) => {
          status = code
          headers = got
          headMs = performance.now() - startedAt
          if (status < 300) expected = wish.expected?.(status)
        },
        onResponseData: (_controller, chunk) => {
          if (expected === undefined) chunks.push(chunk)
          else same &&= expected.subarray(length, length + chunk.length).equals(chunk)
          length += chunk.length
          if (expected !== undefined) wish.onProgress?.(length)
        },
        onResponseEnd: () => settle('whole'),
        onResponseError: () => settle('broken'),
      },
    )
  })
}
