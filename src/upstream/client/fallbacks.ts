/**
 * Failover of an upstream: when the first source cannot answer, the next is asked, in the order of the configuration.
 *
 * "Cannot" is no answer, none within its share of the time, 429, 5xx, or nonsense. An answer of the first holds, its
 * 404 and its 401 or 403 too: a denial is a decision (a password has run out, a name has no owner) that others must
 * not overrule. A fallback may be partial, behind, or closed to this client: its 404 and its refusal mean that the
 * next is asked, and where none is left that is a failure, never an absence.
 *
 * Lists come from the first alone: half a list would pass for a whole one, and a cursor is valid only at its source.
 */
import type { LRUCache } from 'lru-cache'
import { createLru } from '../../base/lru.ts'
import { Penalty } from '../../base/backoff.ts'
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { UpstreamStatus } from '../status.ts'
import { UpstreamError, type BlobRequest, type Upstream, type UpstreamBlob } from '../upstream.ts'
import { CandidateUpstream, findingOf, type Question } from './candidates.ts'

/** How long a source that failed is asked after all others; each try of it costs its share of the time. */
const FAILURE = { first: 10_000, most: 300_000 }
/** The longest `Retry-After` of a fallback that is obeyed: afterwards it is tried again all the same. */
const LONGEST_RETRY_AFTER: Milliseconds = 600_000
/** How long others go first for a blob whose body broke off. */
const CUT_MEMORY: Milliseconds = 10_000
/** How long others go first for a blob that came with wrong bytes: they are not right ten seconds later. */
const DISTRUST_MEMORY: Milliseconds = 600_000
const MOST_BLOBS = 1_000

interface FallbackOptions {
  /** The upstream itself, then its fallbacks, which have the same key. */
  readonly sources: readonly { readonly url: string; readonly upstream: Upstream }[]
  /** How long a source may take to begin an answer before the next is asked. */
  readonly shareMs: Milliseconds
  readonly log: Record<'debug' | 'info' | 'warn', (fields: object, message: string) => void>
  /** Monotonic. */
  readonly now: () => Milliseconds
}

type Outcome<T> =
  | { readonly is: 'answer'; readonly answer: T }
  /** The fallback lacks the content, or refuses it. */
  | { readonly is: 'nothing' }
  | { readonly is: 'failure'; readonly error: UpstreamError; readonly late: boolean }

export class FallbackUpstream extends CandidateUpstream<Source> {
  readonly #options: FallbackOptions
  readonly #first: Source
  readonly #sources: readonly Source[]
  /** The sources that gave bytes of a blob. */
  readonly #givers = createLru<Digest, Set<Source>>(MOST_BLOBS)

  constructor(options: FallbackOptions) {
    const sources = options.sources.map(({ url, upstream }) => new Source(url, upstream, options.now))
    const [first] = sources
    if (first === undefined) throw new Error('a chain needs a source')
    super(first.upstream.key)
    this.#options = options
    this.#sources = sources
    this.#first = first
  }

  get fallback(): string | undefined {
    return this.#first.down ? this.#sources.find(({ down }) => !down)?.url : undefined
  }

  /** A source that broke off in the middle of a body is asked for the rest of it only after the others. */
  override blob(...[name, digest, request]: Parameters<Upstream['blob']>): ReturnType<Upstream['blob']> {
    const { signal, parallel } = request
    return this.ask({
      ...{ name, signal, findingOf, digest, parallel },
      ask: async (source, limit) => {
        const blob = await source.upstream.blob(name, digest, { ...request, signal: limit })
        return blob === undefined ? undefined : this.#watched(source, digest, request, blob)
      },
    })
  }

  avoidSourcesOf(digest: Digest): void {
    for (const source of this.#givers.get(digest) ?? []) source.putOff(digest, DISTRUST_MEMORY)
    this.#givers.delete(digest)
  }

  /** Only the first source's: the pulls that a fallback has left are not figures of this upstream. */
  status(): UpstreamStatus {
    return this.#first.upstream.status()
  }

  quotaBelow(reserve: number): UpstreamError | undefined {
    const why = this.#first.upstream.quotaBelow(reserve)
    // The first would refuse the manifest, and another source may give it.
    const others = this.#sources.some((source) => source !== this.#first && !source.down)
    return why?.retryAfterMs !== undefined && others ? undefined : why
  }

  async close(): Promise<void> {
    await Promise.all(this.#sources.map(({ upstream }) => upstream.close()))
  }

  protected async ask<T>(question: Question<T, Source>): Promise<T> {
    if (question.isList === true) return await question.ask(this.#first, question.signal)
    let failure: UpstreamError | undefined
    const failures: UpstreamError[] = []
    let late: Source | undefined
    let nothing = false
    for (const source of this.#inOrder(question.digest)) {
      const outcome = await this.#try(source, question, this.#options.shareMs)
      if (outcome.is === 'answer') return outcome.answer
      if (outcome.is === 'nothing') nothing = true
      else {
        failures.push(outcome.error)
        if (source === this.#first) failure = outcome.error
        if (outcome.late) late ??= source
      }
    }
    // A slow answer is better than none, and a fallback that lacks the content is no reason to hurry the others.
    if (late !== undefined) {
      const outcome = await this.#try(late, question)
      if (outcome.is === 'answer') return outcome.answer
      nothing ||= outcome.is === 'nothing'
    }
    if (failure !== undefined && !(nothing && failure.isHostwide)) throw this.#together(failure, failures)
    // A fallback answered, so the failure is about that name alone.
    throw new UpstreamError('broken', this.key, `${this.#first.url} cannot answer, and no fallback has it`, {
      cause: failure,
      retryAfterMs: failure?.retryAfterMs,
    })
  }

  /** A limit of the first begins a pause only when all sources have one, and until the first of these ends. */
  #together(first: UpstreamError, failures: readonly UpstreamError[]): UpstreamError {
    const { failure, scope, message } = first
    if (failure !== 'busy') return first
    if (scope !== 'pulls' && failures.some((it) => it.failure !== 'busy')) {
      return new UpstreamError('unreachable', this.key, message, { cause: first })
    }
    const retryAfterMs = Math.min(...failures.map((it) => it.retryAfterMs ?? FAILURE.first))
    return new UpstreamError('busy', this.key, message, { status: 429, retryAfterMs, scope, cause: first })
  }

  /** Without `limitMs` the source may take as long as the caller waits. @throws what is not the source's failure */
  async #try<T>(
    source: Source,
    { ask, findingOf, parallel = false, signal }: Question<T, Source>,
    limitMs?: Milliseconds,
  ): Promise<Outcome<T>> {
    const late = new UpstreamError('unreachable', this.key, `${source.url} took too long to answer`)
    const limit = new AbortController()
    const timer = limitMs === undefined ? undefined : setTimeout(() => limit.abort(late), limitMs)
    try {
      // The body is read under this signal, which the limit for the head must not abort: hence no time-out signal.
      const answer = await ask(source, AbortSignal.any([signal, limit.signal]))
      this.#answered(source)
      const nothing = source !== this.#first && findingOf(answer) === 'absent'
      return nothing ? { is: 'nothing' } : { is: 'answer', answer }
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof UpstreamError)) throw error
      if (error.failure === 'denied') {
        if (source === this.#first) throw error
        return { is: 'nothing' }
      }
      // Too many requests run at once: the download makes do with fewer, and needs no other source.
      if (parallel && (error.failure === 'busy' || error.status === 503)) throw error
      this.#failed(source, error)
      return { is: 'failure', error, late: error === late }
    } finally {
      clearTimeout(timer)
    }
  }

  /** Sources that failed lately come last, and before them those that broke off or spoilt this blob. */
  #inOrder(digest: Digest | undefined): Source[] {
    const rank = (source: Source): number =>
      source.failing.running ? 2 : digest !== undefined && source.isPutOff(digest) ? 1 : 0
    return this.#sources.toSorted((one, other) => rank(one) - rank(other))
  }

  #answered(source: Source): void {
    const { log } = this.#options
    const facts = { upstream: this.key, url: source.url }
    if (source !== this.#first) log.debug(facts, 'answered by a fallback')
    // A source that limits one kind of request may answer another: that does not end its pause.
    if (!source.down || (source.limited && source.failing.running)) return
    source.failing.end()
    source.down = false
    log.info(facts, 'answers again')
  }

  #failed(source: Source, error: UpstreamError): void {
    const { log } = this.#options
    const facts = { upstream: this.key, url: source.url, err: error }
    if (!error.isHostwide) {
      log.debug(facts, 'gives no answer to that')
      return
    }
    // A penalised source is asked only for want of others, so its failure shows nothing new.
    source.failing.beginOrRenew(Math.min(error.retryAfterMs ?? 0, LONGEST_RETRY_AFTER))
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
      if (!signal.aborted) source.putOff(digest, CUT_MEMORY)
    }
    return { ...blob, body: watched(blob, Math.min(to ?? Infinity, size ?? 0), cut) }
  }
}

class Source {
  readonly url: string
  readonly upstream: Upstream
  /** While it runs, the others are asked first. */
  readonly failing: Penalty
  /** It has not answered since its last failure. */
  down = false
  /** Its last failure was a 429. */
  limited = false
  readonly #putOff: LRUCache<Digest, true>

  constructor(url: string, upstream: Upstream, now: () => Milliseconds) {
    this.url = url
    this.upstream = upstream
    this.failing = new Penalty({ ...FAILURE, now })
    this.#putOff = createLru(MOST_BLOBS, { now })
  }

  putOff(digest: Digest, forMs: Milliseconds): void {
    if (forMs > this.#putOff.getRemainingTTL(digest)) this.#putOff.set(digest, true, { ttl: forMs })
  }

  isPutOff(digest: Digest): boolean {
    return this.#putOff.has(digest)
  }
}

/** Yields the same body; `cut` is called when it breaks off, or ends before `end`. */
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
