/**
 * Cached lists of an upstream: a young list is answered from the index, an old one asked of upstream once for all
 * clients that wait (single-flight), and when upstream cannot say the list is answered stale.
 *
 * This decides whether upstream is asked, and for how long; `upstream-lists.ts` says which lists there are.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import type { UpstreamAnswer, UpstreamQuestion } from '../../storage/metadata/upstream-answer-index.ts'
import { UpstreamError, withoutFrames } from '../../upstream/upstream.ts'
import type { AnswerCache } from './answer-cache.ts'
import type { CacheMarks } from '../cache-status.ts'
import { Freshness, goneList, type FreshnessSettings } from '../manifests/freshness.ts'
import type { Collected, CollectOptions } from './list-pages.ts'
import type { ManifestStore } from '../manifests/manifest-store.ts'
import { flightKey, repositoryKey, type MirrorRef } from '../origin.ts'
import { compactBuffer } from '../../base/compact-buffer.ts'
import { nameUnknown, refusalOf } from '../resilience/client-errors.ts'
import { SingleFlight, type Flight } from '../../base/single-flight.ts'

/** Longest life of one request, and of a whole list, in header budgets: later requests must be able to ask anew. */
const PAGE_BUDGETS = 2
const LIST_BUDGETS = 10

/** A list that arrives, but takes longer than this share of the header budget, is handed on page by page. */
const HAND_ON_AFTER = 2 / 3

/** A list that failed is not asked for again for so long while a stale answer can replace it. */
const FAILURE_MEMORY_MS: Milliseconds = 10_000

/** A list too large to be cached is handed on page by page; it is not collected again for so long. */
const TOO_LARGE_MEMORY_MS: Milliseconds = 600_000

/** Weight of the remembered failures, and of one beside its texts. */
const MEMORY_WEIGHT: Bytes = 1024 * 1024
const ENTRY_WEIGHT: Bytes = 256

export interface CachedListsOptions {
  readonly metadata: Pick<MetadataStore, 'repositories'>
  readonly answers: AnswerCache
  readonly manifestStore: Pick<ManifestStore, 'serves'>
  readonly freshness: () => FreshnessSettings
  readonly now: () => Milliseconds
}

/** A list as upstream said it; `value` is undefined where upstream has none. */
export interface Listed<T> extends CacheMarks {
  readonly value: T | undefined
}

/** The client gets upstream's own pages, within so many ms that are left of the header budget. */
interface HandOn {
  readonly handOnMs: Milliseconds
}

/** An answer in the index, with its parsed body; `value` is undefined where upstream had no such list. */
export interface Known<T> {
  readonly answer: UpstreamAnswer
  readonly value: T | undefined
}

/** One question about a repository, and how to read its answer. */
export interface ListQuestion<T extends object> {
  readonly repository: MirrorRef
  readonly question: UpstreamQuestion
  readonly subject?: Digest
  readonly ttlMs: Milliseconds
  readonly negativeTtlMs: Milliseconds
  readonly collect: (options: CollectOptions) => Promise<Collected>
  readonly parse: (body: Buffer) => T | undefined
  /** The answer when upstream cannot say. */
  readonly stale: (known: Known<T> | undefined, failure: UpstreamError) => Promise<Listed<T> | undefined>
}

/** Shared by all clients that wait for the question. */
type Outcome =
  | { readonly is: 'list' | 'unchanged'; readonly value: object | undefined }
  | { readonly is: 'absent' | 'too large' }

export class CachedLists {
  readonly #options: CachedListsOptions
  readonly #freshness: Freshness
  readonly #closing = new AbortController()
  readonly #flights = new SingleFlight<Outcome>()
  /** The pages of unfinished lists that have come, by flight. */
  readonly #pages = new Map<string, number>()
  readonly #failures = new LRUCache<string, { readonly error: UpstreamError; readonly until: Milliseconds }>({
    maxSize: MEMORY_WEIGHT,
    sizeCalculation: ({ error }, key) => ENTRY_WEIGHT + key.length + error.message.length,
  })
  readonly #tooLarge = new LRUCache<string, Milliseconds>({ max: 1_000 })

  constructor(options: CachedListsOptions) {
    this.#options = options
    this.#freshness = new Freshness(options.freshness, options.now)
  }

  /** Asks upstream nothing more; resolves when all lists that came are recorded. */
  async close(): Promise<void> {
    this.#closing.abort(new OciError('UNAVAILABLE', undefined, { message: 'shutting down' }))
    await this.#flights.idle()
  }

  /** The answer in the index; undefined also where its body cannot be read. */
  async known<T extends object>({
    repository,
    question,
    parse,
  }: ListQuestion<T>): Promise<Known<T> | undefined> {
    const { answers } = this.#options
    const key = repositoryKey(repository)
    const answer = await answers.get(key, question)
    if (answer === undefined) return undefined
    const value = await answers.value(key, question, answer, parse)
    return answer.bodySize === undefined || value !== undefined ? { answer, value } : undefined
  }

  async list<T extends object>(asked: ListQuestion<T>, client: AbortSignal): Promise<Listed<T> | HandOn> {
    const { repository, question, ttlMs, negativeTtlMs } = asked
    const { origin, name } = repository
    const { absent } = origin.state
    if (absent.has('list', name, question)) return { value: undefined, cache: 'hit' }
    if (absent.has('repository', name)) throw nameUnknown(repository)
    const known = await this.known(asked)
    const value = known?.value
    if (known !== undefined) {
      const believedMs = value === undefined ? negativeTtlMs : ttlMs
      if (this.#freshness.isYoung(known.answer, believedMs)) return { value, cache: 'hit' }
    }
    if (value !== undefined && absent.has('kept list', name, question)) return { ...goneList(origin), value }
    const remembered = this.#failing(asked)
    const atOnce = remembered && (await asked.stale(known, remembered))
    if (atOnce !== undefined) return atOnce
    const { budgetMs } = this.#options.freshness()
    if ((this.#tooLarge.get(flightOf(asked)) ?? 0) > this.#options.now()) return { handOnMs: budgetMs }
    return await this.#ask(asked, known, client)
  }

  /** Waits for upstream's answer within the header budget. */
  async #ask<T extends object>(
    asked: ListQuestion<T>,
    known: Known<T> | undefined,
    client: AbortSignal,
  ): Promise<Listed<T> | HandOn> {
    const { origin } = asked.repository
    const { staleBudgetMs, budgetMs } = this.#options.freshness()
    const flight = flightOf(asked)
    const start = performance.now()
    const left = (end: Milliseconds): Milliseconds =>
      Math.max(Math.ceil(end - (performance.now() - start)), 0)
    const late = new UpstreamError('unreachable', origin.upstream.key, 'no answer in time')
    for (const end of [Math.min(staleBudgetMs, budgetMs), budgetMs * HAND_ON_AFTER, budgetMs]) {
      const budget = AbortSignal.timeout(left(end))
      try {
        const { answer, joined } = await this.#flights.join(flight, AbortSignal.any([client, budget]), () =>
          this.#work(asked, known, flight),
        )
        return this.#listed(asked, known, answer, joined, left(budgetMs))
      } catch (error) {
        if (error !== budget.reason || client.aborted) return await this.insteadOf(error, asked, known)
      }
      // The list arrives, but slowly: a stale one is no better, and its first page need not wait for the others.
      const comes = this.#pages.has(flight) && known?.value === undefined
      if (comes && end >= budgetMs * HAND_ON_AFTER) return { handOnMs: left(budgetMs) }
      const instead = comes ? undefined : await asked.stale(known, late)
      if (instead === undefined) continue
      this.#remember(flight, late)
      return instead
    }
    return await this.insteadOf(late, asked, known)
  }

  #listed<T extends object>(
    { repository: { origin } }: ListQuestion<T>,
    known: Known<T> | undefined,
    answer: Outcome,
    joined: boolean,
    leftMs: Milliseconds,
  ): Listed<T> | HandOn {
    if (answer.is === 'too large') return { handOnMs: leftMs }
    if (answer.is === 'unchanged' || answer.is === 'list') {
      // All who wait for the same question parse its answer in the same way.
      const value = answer.value as T | undefined
      return { value, cache: answer.is === 'unchanged' ? 'hit' : joined ? 'join' : 'miss' }
    }
    const kept = known?.value !== undefined && origin.on404 === 'keep'
    return kept ? { ...goneList(origin), value: known.value } : { value: undefined, cache: 'miss' }
  }

  /** @throws OciError where no stale answer can replace it */
  async insteadOf<T extends object>(
    error: unknown,
    asked: ListQuestion<T>,
    known?: Known<T>,
  ): Promise<Listed<T>> {
    if (!(error instanceof UpstreamError)) throw error
    const { repository } = asked
    this.#remember(flightOf(asked), error)
    const instead = await asked.stale(known ?? (await this.known(asked)), error)
    if (instead !== undefined) return instead
    // A failing list says nothing about pulls, so the state of the upstream does not record it.
    throw await refusalOf(error, repository, this.#options.metadata.repositories)
  }

  #failing<T extends object>(asked: ListQuestion<T>): UpstreamError | undefined {
    const { origin, name } = asked.repository
    const failed = this.#failures.get(flightOf(asked))
    return (
      origin.state.failing(name) ?? (failed && failed.until > this.#options.now() ? failed.error : undefined)
    )
  }

  #remember(flight: string, error: UpstreamError): void {
    if (error.outOfFiles) return
    const forMs = Math.min(error.retryAfterMs ?? FAILURE_MEMORY_MS, FAILURE_MEMORY_MS)
    this.#failures.set(flight, { error: withoutFrames(error), until: this.#options.now() + forMs })
  }

  /** Asks upstream once for all that wait; it settles when the answer is recorded. */
  async #work<T extends object>(
    asked: ListQuestion<T>,
    known: Known<T> | undefined,
    flight: string,
  ): Promise<Flight<Outcome>> {
    const { now, freshness } = this.#options
    const { origin, name } = asked.repository
    const { budgetMs } = freshness()
    const deadline = AbortSignal.timeout(budgetMs * LIST_BUDGETS)
    try {
      const answer = await asked.collect({
        upstream: origin.upstream,
        name,
        etag: known?.value === undefined ? undefined : known.answer.etag,
        pageTimeoutMs: budgetMs * PAGE_BUDGETS,
        onPage: (pages) => this.#pages.set(flight, pages),
        signal: AbortSignal.any([deadline, this.#closing.signal]),
      })
      this.#failures.delete(flight)
      if (answer.is === 'too large') this.#tooLarge.set(flight, now() + TOO_LARGE_MEMORY_MS)
      return await this.#keep(asked, known, answer)
    } catch (error) {
      if (error === deadline.reason && this.#pages.has(flight)) {
        this.#tooLarge.set(flight, now() + TOO_LARGE_MEMORY_MS)
        return { answer: { is: 'too large' } }
      }
      const failure =
        error === deadline.reason
          ? new UpstreamError('unreachable', origin.upstream.key, 'its list takes too long')
          : error
      if (failure instanceof UpstreamError) this.#remember(flight, failure)
      throw failure
    } finally {
      this.#pages.delete(flight)
    }
  }

  async #keep<T extends object>(
    asked: ListQuestion<T>,
    known: Known<T> | undefined,
    collected: Collected,
  ): Promise<Flight<Outcome>> {
    const { answers, manifestStore, now, freshness } = this.#options
    const { repository, question, subject, parse } = asked
    const { origin, name } = repository
    const key = repositoryKey(repository)
    // Taken before the write: a slow disk does not make upstream's answer any newer.
    const at = now()
    if (collected.is === 'too large') return { answer: { is: 'too large' } }
    if (collected.is === 'unchanged') {
      const answer: Outcome = { is: 'unchanged', value: known?.value }
      return { answer, ...(known && { after: answers.confirm(key, question, known.answer, at) }) }
    }
    if (collected.is === 'absent') {
      const { negativeTtlMs } = freshness()
      if (known?.value !== undefined && origin.on404 === 'keep') {
        origin.state.absent.remember(negativeTtlMs, 'kept list', name, question)
        return { answer: { is: 'absent' } }
      }
      origin.state.absent.remember(negativeTtlMs, 'list', name, question)
      // Names that a client makes up must not fill the index.
      const keeps = known !== undefined || (await manifestStore.serves(repository))
      return {
        answer: { is: 'absent' },
        ...(keeps && { after: answers.put(key, question, { subject }, at) }),
      }
    }
    const { etag } = collected
    const body = compactBuffer(collected.body)
    const same =
      known?.answer.bodySize === body.length && (await answers.body(key, question))?.equals(body) === true
    if (same && known.answer.etag === etag) {
      const answer: Outcome = { is: 'list', value: known.value }
      return { answer, after: answers.confirm(key, question, known.answer, at) }
    }
    const value = parse(body)
    if (value !== undefined) answers.warm(key, question, at, body, value)
    return { answer: { is: 'list', value }, after: answers.put(key, question, { body, etag, subject }, at) }
  }
}

function flightOf({ repository, question }: Pick<ListQuestion<object>, 'repository' | 'question'>): string {
  return flightKey(repository.origin, `${question} of ${repository.name}`)
}
