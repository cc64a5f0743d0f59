/** A registry in memory behind the real server, and clients down to the bare socket. */
import { once } from 'node:events'
import { request as httpRequest, type Agent, type IncomingHttpHeaders } from 'node:http'
import { connect, type Socket } from 'node:net'
import { pino } from 'pino'
import type { Test } from 'tap'
import { HttpServer, type HttpServerOptions } from '../../src/http/server.ts'
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import { digestOf, type Digest } from '../../src/oci/digest.ts'
import { OciError } from '../../src/oci/errors.ts'
import type { Reference, RepositoryName } from '../../src/oci/reference.ts'
import type { Events, RepositoryEvent } from '../../src/registry/notifications/event.ts'
import type { Pusher, PushTarget } from '../../src/registry/local/push-target.ts'
import type { Registry, RegistryHealth, Resolution } from '../../src/registry/registry.ts'
import type {
  BlobAnswer,
  BlobHead,
  ManifestAnswer,
  ManifestHead,
  ReferrersAnswer,
  Repository,
  TagsAnswer,
} from '../../src/registry/repository.ts'
import type { ByteSource } from '../../src/storage/blobs/blob-store.ts'
import { createMetrics, type Metrics } from '../../src/telemetry/metrics.ts'

/** What a source does besides giving out its bytes. */
export interface SourceBehaviour {
  /** Fails there instead of ending. */
  failAt?: number
  /** Ends there, short. */
  endAt?: number
  /** Stands still there until its reader leaves. */
  stallAt?: number
  /** Most bytes of one read. */
  chunk?: number
  /** Called after every read. */
  onRead?: (position: number) => void
}

export class FakeRepository implements Repository {
  readonly kind = 'mirror'
  readonly registry = 'docker.io'
  readonly manifests = new Map<string, ManifestAnswer>()
  readonly blobs = new Map<string, Buffer>()
  readonly calls: string[] = []
  behaviour: SourceBehaviour = {}
  cache: BlobHead['cache'] = 'hit'
  unverified = false
  unknownSize = false
  /** Thrown instead of answering anything. */
  error: unknown
  /** Thrown by `open`. */
  openError: unknown
  tagsAnswer: TagsAnswer | undefined
  referrersAnswer: ReferrersAnswer | undefined
  answersOpen = 0
  sourcesOpen = 0
  bytesRead = 0
  largestBuffer = 0
  ranged: boolean[] = []
  queries: string[] = []
  opened: ({ start: number; end: number } | undefined)[] = []
  signals: AbortSignal[] = []

  async holds(): Promise<boolean> {
    return false
  }

  #called(what: string): void {
    this.calls.push(what)
    if (this.error !== undefined) throw this.error as Error
  }

  async headManifest(reference: Reference): Promise<ManifestHead | undefined> {
    this.#called(`headManifest ${reference}`)
    const found = this.manifests.get(reference)
    if (!found) return undefined
    const { bytes, ...head } = found
    return bytes.length === head.size ? head : undefined
  }

  async manifest(reference: Reference, signal: AbortSignal): Promise<ManifestAnswer | undefined> {
    this.signals.push(signal)
    this.#called(`manifest ${reference}`)
    return this.manifests.get(reference)
  }

  async headBlob(digest: Digest): Promise<BlobHead | undefined> {
    this.#called(`headBlob ${digest}`)
    const bytes = this.blobs.get(digest)
    return bytes && { digest, size: bytes.length, cache: this.cache }
  }

  async blob(
    digest: Digest,
    options: { ranged: boolean; signal: AbortSignal },
  ): Promise<BlobAnswer | undefined> {
    this.#called(`blob ${digest}`)
    this.ranged.push(options.ranged)
    this.signals.push(options.signal)
    const bytes = this.blobs.get(digest)
    if (!bytes) return undefined
    this.answersOpen++
    return {
      digest,
      size: this.unknownSize ? undefined : bytes.length,
      cache: this.cache,
      unverified: this.unverified,
      open: async (range) => {
        this.opened.push(range)
        if (this.openError !== undefined) throw this.openError as Error
        return this.#source(bytes, range?.start ?? 0, range?.end ?? bytes.length)
      },
      [Symbol.asyncDispose]: async () => {
        if (this.sourcesOpen > 0) throw new Error('an answer was disposed before its source')
        this.answersOpen--
      },
    }
  }

  #source(bytes: Buffer, start: number, end: number): ByteSource {
    this.sourcesOpen++
    const {
      failAt = Infinity,
      endAt = Infinity,
      stallAt = Infinity,
      chunk = Infinity,
      onRead,
    } = this.behaviour
    let position = start
    return {
      read: async (buffer, signal) => {
        signal.throwIfAborted()
        if (position >= stallAt) {
          await once(signal, 'abort')
          signal.throwIfAborted()
        }
        if (position >= failAt) throw new OciError('BAD_GATEWAY')
        const until = Math.min(position + Math.min(chunk, buffer.length), end, failAt, endAt, stallAt)
        const count = Math.max(0, bytes.copy(buffer, 0, position, until))
        position += count
        this.bytesRead += count
        this.largestBuffer = Math.max(this.largestBuffer, buffer.length)
        onRead?.(position)
        return count
      },
      [Symbol.asyncDispose]: async () => {
        this.sourcesOpen--
      },
    }
  }

  async tags(query: URLSearchParams): Promise<TagsAnswer | undefined> {
    this.#called('tags')
    this.queries.push(query.toString())
    return this.tagsAnswer
  }

  async referrers(subject: Digest, query: URLSearchParams): Promise<ReferrersAnswer | undefined> {
    this.#called(`referrers ${subject}`)
    this.queries.push(query.toString())
    return this.referrersAnswer
  }

  addBlob(bytes: Buffer): Digest {
    const digest = digestOf(bytes)
    this.blobs.set(digest, bytes)
    return digest
  }

  addManifest(tag: string, bytes: Buffer, more: Partial<ManifestAnswer> = {}): Digest {
    const digest = digestOf(bytes)
    const answer = {
      digest,
      bytes,
      size: bytes.length,
      mediaType: MEDIA_TYPES.ociManifest,
      cache: 'hit' as const,
      ...more,
    }
    this.manifests.set(tag, answer).set(digest, answer)
    return digest
  }
}

export class FakeRegistry implements Registry {
  readonly repository = new FakeRepository()
  readonly calls: string[] = []
  state: RegistryHealth = {
    upstreams: [{ key: 'docker.io', state: 'ok', message: undefined }],
    storage: 'ok',
    openFiles: 'ok',
    quarantine: { count: 0, blobs: [] },
  }

  async resolve(name: RepositoryName, namespace: string | undefined): Promise<Resolution> {
    this.calls.push(`resolve ${name} ${String(namespace)}`)
    if (name === 'no/where' || namespace === 'unknown') throw new OciError('NAME_UNKNOWN', { name })
    const rule = namespace === undefined ? 'default' : 'ns'
    return { repository: this.repository, listedAs: `docker.io/${name}`, namespace, rule }
  }

  /** Whether whoever pushed was taken for a program on this machine. */
  readonly pushers: boolean[] = []
  /** Where pushes go, when they are taken. */
  target: PushTarget | undefined

  async pushTo(
    name: RepositoryName,
    namespace: string | undefined,
    { onThisMachine }: Pusher,
  ): Promise<PushTarget> {
    this.calls.push(`pushTo ${name} ${String(namespace)}`)
    this.pushers.push(onThisMachine)
    if (name.startsWith('owned/'))
      throw new OciError('DENIED', { name }, { message: 'this name belongs to an upstream' })
    if (this.target === undefined) throw new OciError('UNSUPPORTED')
    return this.target
  }

  deleteFrom(name: RepositoryName, namespace: string | undefined, pusher: Pusher): Promise<PushTarget> {
    return this.pushTo(name, namespace, pusher)
  }

  async catalog({ last = '', limit }: { last?: string; limit: number }): Promise<string[]> {
    return ['docker.io/library/one', 'team/app', 'team/more'].filter((name) => name > last).slice(0, limit)
  }

  async health(): Promise<RegistryHealth> {
    return this.state
  }
}

/** A test that waits for what is never said would take all that come after it along. */
const LINE_MS = 60_000

export type LogLine = Record<string, unknown> & { msg: string; level: number }

export interface Served {
  readonly registry: FakeRegistry
  readonly repository: FakeRepository
  /** That were told of. */
  readonly pulls: readonly RepositoryEvent[]
  readonly metrics: Metrics
  readonly server: HttpServer
  readonly port: number
  readonly url: string
  /** Everything logged so far. */
  readonly lines: LogLine[]
  /** The line of that number, which may be there already. Rejects when it does not come within a minute. */
  readonly line: (nth: number) => Promise<LogLine>
}

export async function serveFake(t: Test, options: Partial<HttpServerOptions> = {}): Promise<Served> {
  const registry = new FakeRegistry()
  const metrics = createMetrics()
  const lines: LogLine[] = []
  const waiting = new Set<() => void>()
  const log = pino(
    { level: 'debug' },
    {
      write: (text: string) => {
        lines.push(JSON.parse(text) as LogLine)
        for (const wake of waiting) wake()
      },
    },
  )
  const search = { find: () => Promise.resolve([]) }
  const explain = () => Promise.reject(new Error('nobody asks'))
  const pulls: RepositoryEvent[] = []
  const events: Pick<Events, 'pulled'> = { pulled: (pull) => void pulls.push(pull) }
  const server = new HttpServer({ registry, search, explain, events, metrics, log, ...options })
  const { port } = await server.listen('127.0.0.1', 0)
  t.teardown(() => server.close(0))
  const line = async (nth: number): Promise<LogLine> => {
    const { promise, resolve, reject } = Promise.withResolvers<LogLine>()
    const wake = (): void => {
      const found = lines[nth]
      if (found) resolve(found)
    }
    const never = (): void => reject(new Error(`no line ${nth} after ${JSON.stringify(lines)}`))
    const timer = setTimeout(never, LINE_MS)
    waiting.add(wake)
    wake()
    return await promise.finally(() => {
      waiting.delete(wake)
      clearTimeout(timer)
    })
  }
  const { repository } = registry
  const url = `http://127.0.0.1:${port}`
  return { registry, repository, pulls, metrics, server, port, url, lines, line }
}

export interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  /** The code of the OCI error in the body. */
  readonly code: string | undefined
}

export interface RequestOptions {
  method?: string
  headers?: Record<string, string>
  body?: string | Buffer
  agent?: Agent
}

/** Rejects when the answer breaks off. */
export async function call(url: string, options: RequestOptions = {}): Promise<Reply> {
  const { promise, resolve, reject } = Promise.withResolvers<Reply>()
  const { method = 'GET', headers = {}, body, agent } = options
  const outgoing = httpRequest(url, { method, headers, agent: agent ?? false }, (incoming) => {
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('error', reject)
    incoming.on('end', () => {
      const whole = Buffer.concat(chunks)
      resolve({
        status: incoming.statusCode ?? 0,
        headers: incoming.headers,
        body: whole,
        code: codeOf(whole),
      })
    })
  })
  outgoing.on('error', reject)
  outgoing.end(body)
  return promise
}

export function codeOf(body: Buffer | string): string | undefined {
  try {
    const parsed = JSON.parse(body.toString()) as { errors?: { code: string; message: string }[] }
    return parsed.errors?.length === 1 && typeof parsed.errors[0]?.message === 'string'
      ? parsed.errors[0].code
      : undefined
  } catch {
    return undefined
  }
}

/** Sends that and no more, and collects what comes until the server closes. */
export async function raw(port: number, ...pieces: (string | Buffer)[]): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  for (const piece of pieces) socket.write(piece)
  await once(socket, 'close')
  return Buffer.concat(chunks).toString('latin1')
}

/** Rejects when the connection is reset. */
export async function open(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  await once(socket, 'connect')
  return socket
}

export interface RawReply {
  readonly status: number
  readonly head: string
  readonly body: string
  readonly code: string | undefined
}

/** Takes a stream of responses with Content-Length apart. */
export function replies(text: string): RawReply[] {
  const all: RawReply[] = []
  let rest = text
  while (rest !== '') {
    const end = rest.indexOf('\r\n\r\n')
    if (end < 0) throw new Error(`no head in ${JSON.stringify(rest.slice(0, 200))}`)
    const head = rest.slice(0, end)
    const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0)
    const body = rest.slice(end + 4, end + 4 + length)
    all.push({ status: Number(head.split(' ')[1]), head, body, code: codeOf(body) })
    rest = rest.slice(end + 4 + length)
  }
  return all
}
