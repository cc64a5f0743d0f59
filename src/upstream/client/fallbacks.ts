/**
 * An upstream, and who is asked when it cannot answer: the next in the order of the configuration.
 *
 * "Cannot" is no answer, none within its share of the time, 429, 5xx, or nonsense. What the first says holds,
 * its 404 and its 401 or 403 too: whoever denies has decided something (a password has run out, nobody owns
 * that name), and others must not overrule it. A fallback may be partial, behind, or closed to us: its 404 and
 * its refusal mean that the next is asked, and where nobody is left that is a failure, never an absence.
 *
 * Lists come from the first alone: half a list would pass for a whole one, and a cursor is good only where it
 * came from.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import type { Reference, RepositoryName } from '../../oci/reference.ts'
import type { UpstreamStatus } from '../status.ts'
import {
  UpstreamError,
  type BlobRequest,
  type ReferrersPage,
  type TagPage,
  type Upstream,
  type UpstreamBlob,
  type UpstreamHead,
  type UpstreamManifest,
} from '../upstream.ts'

/** How long who failed is asked after all others; it doubles while it fails on, since each try costs its share. */
const FAILURE_MEMORY: Milliseconds = 10_000
const FAILURE_MOST: Milliseconds = 300_000
/** The longest `Retry-After` that is minded: it is a fallback's turn, not a sentence for life. */
const LONGEST_SILENCE: Milliseconds = 600_000
/** A body broke off: for the rest of it, others go first. */
const CUT_MEMORY: Milliseconds = 10_000
/** Wrong bytes are not right ten seconds later. */
const DISTRUST_MEMORY: Milliseconds = 600_000

interface FallbackOptions {
  /** The upstream itself, then its fallbacks; all with its key. */
  readonly sources: readonly { readonly url: string; readonly upstream: Upstream }[]
  /** How long one may take to begin an answer before the next is asked. */
  readonly shareMs: Milliseconds
  readonly log: Record<'debug' | 'info' | 'warn', (fields: object, message: string) => void>
  /** Monotonic. */
  readonly now: () => Milliseconds
}

interface Question<T> {
  readonly ask: (source: Source, signal: AbortSignal) => Promise<T>
  readonly isAbsent: (answer: T) => boolean
  /** Of the blob whose bytes are asked for. */
  readonly digest?: Digest
  /** Of {@link BlobRequest}. */
  readonly spare?: boolean | undefined
}

type Outcome<T> =
  | { readonly is: 'answer'; readonly answer: T }
  /** A fallback has not got it, or does not give it to us. */
  | { readonly is: 'nothing' }
  | { readonly is: 'failure'; readonly error: UpstreamError; readonly late: boolean }

export class FallbackUpstream implements Upstream {
  readonly key: string
  readonly #options: FallbackOptions
  readonly #first: Source
  readonly #sources: readonly Source[]
  /** Who gave bytes of a blob. */
  readonly #givers = new LRUCache<Digest, Set<Source>>({ maxSize: 1_000, sizeCalculation: () => 1 })

  constructor(options: FallbackOptions) {
    this.#options = options
    this.#sources = options.sources.map(({ url, upstream }) => new Source(url, upstream))
    const [first] = this.#sources
    if (first === undefined) throw new Error('there is nobody to ask')
    this.#first = first
    this.key = first.upstream.key
  }

  /** Where answers come from while the first gives none. */
  get fallback(): string | undefined {
    return this.#first.down ? this.#sources.find(({ down }) => !down)?.url : undefined
  }

  headManifest(name: RepositoryName, reference: Reference, signal: AbortSignal): Promise<UpstreamHead> {
    const question: Question<UpstreamHead> = {
      ask: ({ upstream }, limit) => upstream.headManifest(name, reference, limit),
      isAbsent: ({ result }) => result === 'absent',
    }
    return this.#ask(question, signal)
  }

  manifest(
    name: RepositoryName,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<UpstreamManifest | undefined> {
    return this.#ask(
      { ask: ({ upstream }, limit) => upstream.manifest(name, reference, limit), isAbsent: isUndefined },
      signal,
    )
  }

  headBlob(
    name: RepositoryName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<{ size: Bytes | undefined } | undefined> {
    return this.#ask(
      { ask: ({ upstream }, limit) => upstream.headBlob(name, digest, limit), isAbsent: isUndefined },
      signal,
    )
  }

  /** Who broke off in the middle of a body is asked for the rest of it only after the others. */
  blob(name: RepositoryName, digest: Digest, request: BlobRequest): Promise<UpstreamBlob | undefined> {
    const question: Question<UpstreamBlob | undefined> = {
      ask: async (source, signal) => {
        const blob = await source.upstream.blob(name, digest, { ...request, signal })
        return blob === undefined ? undefined : this.#watched(source, digest, request, blob)
      },
      isAbsent: isUndefined,
      digest,
      spare: request.parallel,
    }
    return this.#ask(question, request.signal)
  }

  /** All who gave some of them are suspects, for some time. */
  avoidSourcesOf(digest: Digest): void {
    for (const source of this.#givers.get(digest) ?? []) {
      source.putOff(digest, this.#options.now() + DISTRUST_MEMORY)
    }
    this.#givers.delete(digest)
  }

  tags(
    name: RepositoryName,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<TagPage | undefined> {
    return this.#first.upstream.tags(name, query, signal, etag)
  }

  referrers(
    name: RepositoryName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<ReferrersPage | undefined> {
    return this.#first.upstream.referrers(name, subject, query, signal, etag)
  }

  /** Of the first: what a fallback has left for us is not its figure. */
  status(): UpstreamStatus {
    return this.#first.upstream.status()
  }

  quotaBelow(reserve: number): UpstreamError | undefined {
    const why = this.#first.upstream.quotaBelow(reserve)
    // What the first would refuse altogether, another may give.
    const others = this.#sources.some((source) => source !== this.#first && !source.down)
    return why?.retryAfterMs !== undefined && others ? undefined : why
  }

  async close(): Promise<void> {
    await Promise.all(this.#sources.map(({ upstream }) => upstream.close()))
  }

  async #ask<T>(question: Question<T>, signal: AbortSignal): Promise<T> {
    let failure: UpstreamError | undefined
    const failures: UpstreamError[] = []
    let late: Source | undefined
    let nothing = false
    for (const source of this.#inOrder(question.digest)) {
      const outcome = await this.#try(source, question, signal, this.#options.shareMs)
      if (outcome.is === 'answer') return outcome.answer
      if (outcome.is === 'nothing') nothing = true
      else {
        failures.push(outcome.error)
        if (source === this.#first) failure = outcome.error
        if (outcome.late) late ??= source
      }
    }
    // Slow is better than not at all, and a fallback that has it not is no reason to hurry who may have it.
    if (late !== undefined) {
      const outcome = await this.#try(late, question, signal)
      if (outcome.is === 'answer') return outcome.answer
      nothing ||= outcome.is === 'nothing'
    }
    if (failure !== undefined && !(nothing && failure.ofTheWhole)) throw this.#together(failure, failures)
    // Somebody answered, so this is about that name alone.
    throw new UpstreamError('broken', this.key, `${this.#first.url} cannot answer, and no fallback has it`, {
      cause: failure,
      ...(failure?.retryAfterMs === undefined ? {} : { retryAfterMs: failure.retryAfterMs }),
    })
  }

  /** A limit of the first silences all of them only when all have one, and until the first of these ends. */
  #together(first: UpstreamError, failures: readonly UpstreamError[]): UpstreamError {
    const { failure, ofPulls, message } = first
    if (failure !== 'busy') return first
    if (!ofPulls && failures.some((it) => it.failure !== 'busy')) {
      return new UpstreamError('unreachable', this.key, message, { cause: first })
    }
    const retryAfterMs = Math.min(...failures.map((it) => it.retryAfterMs ?? FAILURE_MEMORY))
    return new UpstreamError('busy', this.key, message, { status: 429, retryAfterMs, ofPulls, cause: first })
  }

  /** Without `limitMs` it may take as long as the caller waits. @throws what is no failure to answer */
  async #try<T>(
    source: Source,
    question: Question<T>,
    signal: AbortSignal,
    limitMs?: Milliseconds,
  ): Promise<Outcome<T>> {
    const late = new UpstreamError('unreachable', this.key, `${source.url} took too long to answer`)
    const limit = new AbortController()
    const timer = limitMs === undefined ? undefined : setTimeout(() => limit.abort(late), limitMs)
    try {
      // A body runs on under this signal, and must not be ended by a limit for its head: hence no time-out signal.
      const answer = await question.ask(source, AbortSignal.any([signal, limit.signal]))
      this.#answered(source)
      const own = source === this.#first
      return !own && question.isAbsent(answer) ? { is: 'nothing' } : { is: 'answer', answer }
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof UpstreamError)) throw error
      if (error.failure === 'denied') {
        if (source === this.#first) throw error
        return { is: 'nothing' }
      }
      // There are too many at once: whoever asked makes do with fewer, and that is no reason to go elsewhere.
      if (question.spare === true && (error.failure === 'busy' || error.status === 503)) throw error
      this.#failed(source, error)
      return { is: 'failure', error, late: error === late }
    } finally {
      clearTimeout(timer)
    }
  }

  /** Who failed lately comes last, and before them whoever did badly with this blob. */
  #inOrder(digest: Digest | undefined): Source[] {
    const now = this.#options.now()
    const rank = (source: Source): number =>
      source.failingUntil > now ? 2 : digest !== undefined && source.isPutOff(digest, now) ? 1 : 0
    return this.#sources.toSorted((one, other) => rank(one) - rank(other))
  }

  #answered(source: Source): void {
    const { log, now } = this.#options
    const facts = { upstream: this.key, url: source.url }
    if (source !== this.#first) log.debug(facts, 'answered by a fallback')
    // Who has had enough of one kind of questions may well answer another: that lifts nothing.
    if (!source.down || (source.limited && source.failingUntil > now())) return
    source.failingUntil = Number.NEGATIVE_INFINITY
    source.silence = FAILURE_MEMORY
    source.down = false
    log.info(facts, 'answers again')
  }

  #failed(source: Source, error: UpstreamError): void {
    const { log, now } = this.#options
    const facts = { upstream: this.key, url: source.url, err: error }
    if (!error.ofTheWhole) {
      log.debug(facts, 'gives no answer to that')
      return
    }
    const wanted = Math.min(error.retryAfterMs ?? 0, LONGEST_SILENCE)
    // Whoever asks it meanwhile, for want of others, shows nothing new.
    if (source.down && source.failingUntil <= now()) {
      source.silence = Math.min(source.silence * 2, FAILURE_MOST)
    }
    source.failingUntil = now() + Math.max(wanted, source.silence)
    log[source.down ? 'debug' : 'warn'](facts, 'cannot answer: others are asked instead')
    source.down = true
    source.limited = error.failure === 'busy'
  }

  #watched(source: Source, digest: Digest, request: BlobRequest, blob: UpstreamBlob): UpstreamBlob {
    const { to, signal } = request
    const size = request.size ?? blob.size ?? request.expectedSize
    const givers = this.#givers.get(digest) ?? new Set()
    this.#givers.set(digest, givers.add(source))
    const cut = (): void => {
      if (!signal.aborted) source.putOff(digest, this.#options.now() + CUT_MEMORY)
    }
    return { ...blob, body: watched(blob, Math.min(to ?? Infinity, size ?? 0), cut) }
  }
}

class Source {
  readonly url: string
  readonly upstream: Upstream
  failingUntil: Milliseconds = Number.NEGATIVE_INFINITY
  /** How long it is asked after the others when it fails. */
  silence: Milliseconds = FAILURE_MEMORY
  /** Since its last failure it has not answered. */
  down = false
  /** That was a 429. */
  limited = false
  readonly #putOff = new LRUCache<Digest, Milliseconds>({ maxSize: 1_000, sizeCalculation: () => 1 })

  constructor(url: string, upstream: Upstream) {
    this.url = url
    this.upstream = upstream
  }

  putOff(digest: Digest, until: Milliseconds): void {
    this.#putOff.set(digest, Math.max(until, this.#putOff.get(digest) ?? until))
  }

  isPutOff(digest: Digest, now: Milliseconds): boolean {
    return (this.#putOff.get(digest) ?? now) > now
  }
}

/** The same body; `cut` is called when it breaks off, or ends before `end`. */
async function* watched(
  { start, body }: UpstreamBlob,
  end: Bytes,
  cut: () => void,
): AsyncGenerator<readonly Buffer[], void, undefined> {
  let position = start
  try {
    for await (const batch of body) {
      for (const chunk of batch) position += chunk.length
      yield batch
    }
  } catch (error) {
    cut()
    throw error
  }
  if (position < end) cut()
}

function isUndefined(answer: unknown): boolean {
  return answer === undefined
}
