/**
 * Tag lists and referrers of a mirrored repository, cached as tags are.
 *
 * What upstream listed is kept whole in the index (`answer-cache.ts`): young it answers from here, old it is asked
 * about once for however many ask, and it answers stale whenever a tag of that repository would. What was never asked,
 * while upstream cannot say, is answered with what is here: never with an empty list of tags, and with a list of
 * referrers only for a manifest that is here, because a signature check would take it for "unsigned".
 * Without a referrers API upstream the answer is "absent", so that clients fall back to the tag schema.
 */
import { LRUCache } from 'lru-cache'
import type { Digest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import { parsePage } from '../oci/pagination.ts'
import { referrersPage } from '../oci/referrers.ts'
import type { MetadataStore } from '../store/metadata.ts'
import {
  referrersQuestion,
  TAG_LIST,
  type UpstreamAnswer,
  type UpstreamQuestion,
} from '../store/upstream-answers.ts'
import { UpstreamError, type Milliseconds, type TagPage } from '../upstream/upstream.ts'
import type { AnswerCache } from './answer-cache.ts'
import type { ReferrersAnswer, TagsAnswer } from './answers.ts'
import { ATTESTATION_TTL_MS, isAttestation } from './attestation.ts'
import type { CacheStatus } from './cache-status.ts'
import { Freshness, goneList, marked, type FreshnessSettings } from './freshness.ts'
import {
  collectReferrers,
  collectTags,
  manifestsIn,
  type Collected,
  type CollectOptions,
  type ListedReferrer,
} from './list-pages.ts'
import type { ManifestShelf } from './manifest-shelf.ts'
import { flightKey, repositoryKey, type MirroredName } from './origin.ts'
import { nameUnknown, refusalOf } from './refusals.ts'
import { SingleFlight, type Flight } from './single-flight.ts'

/** Longest life of one request, and of a whole list, in header budgets: later ones must be able to ask anew. */
const PAGE_BUDGETS = 2
const LIST_BUDGETS = 10

/** A list that fails is not asked for again for so long while something can answer in its place. */
const FAILURE_MEMORY_MS: Milliseconds = 10_000

/** A list that is too large to be kept is handed on page by page; for so long it is not put together again. */
const TOO_LARGE_MEMORY_MS: Milliseconds = 600_000

/** More than that of what is here is no list for anybody. */
const MOST_HERE = 100_000

interface ListingsOptions {
  readonly metadata: Pick<MetadataStore, 'repositories' | 'tags' | 'manifests'>
  readonly answers: AnswerCache
  readonly shelf: Pick<ManifestShelf, 'record' | 'namedManifest' | 'serves'>
  readonly freshness: () => FreshnessSettings
  readonly now: () => Milliseconds
}

/** A list that is known, or that there is none. */
interface Listed<T> {
  readonly value: T | undefined
  readonly cache: CacheStatus
  readonly warning?: string
}

/** One question about a repository, and how its answer is read. */
interface ListQuestion<T extends object> {
  readonly repository: MirroredName
  readonly question: UpstreamQuestion
  readonly subject?: Digest
  readonly ttlMs: Milliseconds
  readonly collect: (options: CollectOptions) => Promise<Collected>
  readonly parse: (body: Buffer) => T | undefined
  /** What answers in place of what upstream cannot say. */
  readonly stale: (
    known: UpstreamAnswer | undefined,
    value: T | undefined,
    failure: UpstreamError,
  ) => Promise<Listed<T> | undefined>
}

interface Referrers {
  readonly bytes: Buffer
  readonly manifests: readonly ListedReferrer[]
}

export class Listings {
  readonly #options: ListingsOptions
  readonly #freshness: Freshness
  readonly #closing = new AbortController()
  readonly #flights = new SingleFlight<Collected>()
  /** Pages that have come, of what is being put together. */
  readonly #pages = new Map<string, number>()
  readonly #failures = new LRUCache<string, { readonly error: UpstreamError; readonly until: Milliseconds }>({
    max: 1_000,
  })
  readonly #tooLarge = new LRUCache<string, Milliseconds>({ max: 1_000 })

  constructor(options: ListingsOptions) {
    this.#options = options
    this.#freshness = new Freshness(options.freshness, options.now)
  }

  /**
   * @returns undefined when upstream says that there is no such repository
   * @throws OciError UNAVAILABLE, DENIED or NAME_UNKNOWN
   */
  async tags(
    repository: MirroredName,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<TagsAnswer | undefined> {
    // A cursor of upstream's own says nothing to us.
    if (query.has('next_page')) return this.#pageOfTags(repository, query, signal)
    const found = await this.#list(this.#tagList(repository), signal)
    if (found === 'too large') return this.#pageOfTags(repository, query, signal)
    const { value, cache, warning } = found
    if (value === undefined) {
      if (warning === undefined) return undefined
      throw nameUnknown(repository, undefined, warning)
    }
    return { ...pageOf(value, query), cache, ...(warning === undefined ? {} : { warning }) }
  }

  /**
   * @returns undefined when upstream has no referrers API
   * @throws OciError UNAVAILABLE, DENIED or NAME_UNKNOWN
   */
  async referrers(
    repository: MirroredName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined> {
    const found = await this.#list(await this.#referrersOf(repository, subject), signal)
    if (found === 'too large') return this.#pageOfReferrers(repository, subject, query, signal)
    const { value, cache, warning } = found
    const marks = { cache, ...(warning === undefined ? {} : { warning }) }
    if (value === undefined) {
      if (warning === undefined) return undefined
      const message = 'no referrers API for this repository'
      throw new OciError('NOT_FOUND', undefined, { message, staleWarning: warning })
    }
    const { bytes, manifests } = value
    const asItCame = ['artifactType', 'n', 'last'].every((name) => !query.has(name))
    if (asItCame) return { bytes, filtersApplied: undefined, next: undefined, ...marks }
    return { ...referrersPage(manifests, query), ...marks }
  }

  /** The descriptors of all that refers to it, as {@link referrers} would list them; undefined: there is no such API. */
  async allReferrers(
    repository: MirroredName,
    subject: Digest,
    signal: AbortSignal,
  ): Promise<readonly ListedReferrer[] | undefined> {
    const found = await this.#list(await this.#referrersOf(repository, subject), signal)
    return found === 'too large' ? [] : found.value?.manifests
  }

  /** The same, as far as it is here; asks nobody. */
  async storedReferrers(repository: MirroredName, subject: Digest): Promise<readonly ListedReferrer[]> {
    const { answers } = this.#options
    const { question, parse } = await this.#referrersOf(repository, subject)
    const key = repositoryKey(repository)
    const known = await answers.get(key, question)
    return (known && (await answers.value(key, question, known, parse)))?.manifests ?? []
  }

  /** Asks upstream nothing more; resolves when everything that was listed is written down. */
  async close(): Promise<void> {
    this.#closing.abort(new OciError('UNAVAILABLE', undefined, { message: 'shutting down' }))
    await this.#flights.idle()
  }

  #tagList(repository: MirroredName): ListQuestion<readonly string[]> {
    return {
      repository,
      question: TAG_LIST,
      ttlMs: repository.origin.tagTtlMs,
      collect: collectTags,
      parse: (body) => JSON.parse(body.toString()) as string[],
      stale: (known, value, failure) => this.#staleTags(repository, known, value, failure),
    }
  }

  async #referrersOf(repository: MirroredName, subject: Digest): Promise<ListQuestion<Referrers>> {
    const attestation = isAttestation(await this.#options.shelf.namedManifest(repository, subject))
    return {
      repository,
      question: referrersQuestion(subject),
      subject,
      ttlMs: attestation ? ATTESTATION_TTL_MS : repository.origin.tagTtlMs,
      collect: (options) => collectReferrers(subject, options),
      parse: (bytes) => {
        const manifests = manifestsIn(bytes)
        return manifests && { bytes, manifests }
      },
      stale: (known, value, failure) => this.#staleReferrers(repository, subject, known, value, failure),
    }
  }

  /** A list that is here as long as any tag of the repository would be answered; else the tags that are here. */
  async #staleTags(
    repository: MirroredName,
    known: UpstreamAnswer | undefined,
    value: readonly string[] | undefined,
    failure: UpstreamError,
  ): Promise<Listed<readonly string[]> | undefined> {
    const { tags } = this.#options.metadata
    const key = repositoryKey(repository)
    const checkedAt = Math.max(
      known?.checkedAt ?? Number.NEGATIVE_INFINITY,
      (await tags.lastChecked(key)) ?? Number.NEGATIVE_INFINITY,
    )
    if (!Number.isFinite(checkedAt)) return undefined
    const stale = this.#freshness.stale(repository, { checkedAt }, failure)
    if (stale === undefined) return undefined
    if (known !== undefined && (known.bodySize === undefined || value !== undefined))
      return { ...stale, value }
    const here = await tags.list(key, { limit: MOST_HERE })
    if (here.length === 0) return undefined
    return { ...marked(repository.origin, failure, 'only tags that are here are listed'), value: here }
  }

  /** Of a manifest that is here: it is served for as long as it is, and so is what is known to refer to it. */
  async #staleReferrers(
    repository: MirroredName,
    subject: Digest,
    known: UpstreamAnswer | undefined,
    value: Referrers | undefined,
    failure: UpstreamError,
  ): Promise<Listed<Referrers> | undefined> {
    const { shelf, metadata } = this.#options
    const isKnown = known !== undefined && (known.bodySize === undefined || value !== undefined)
    const stale = isKnown ? this.#freshness.stale(repository, known, failure) : undefined
    if (stale !== undefined) return { ...stale, value }
    if ((await shelf.record(repository, subject)) === undefined) return undefined
    if (isKnown) return { ...marked(repository.origin, failure, 'confirmed long ago'), value }
    const here = await metadata.manifests.referrers(repositoryKey(repository), subject)
    const { bytes } = referrersPage(here, new URLSearchParams())
    const warning = 'only referrers that are here are listed, there may be others'
    return { ...marked(repository.origin, failure, warning), value: { bytes, manifests: here } }
  }

  async #list<T extends object>(
    asked: ListQuestion<T>,
    client: AbortSignal,
  ): Promise<Listed<T> | 'too large'> {
    const { repository, question, ttlMs, parse } = asked
    const { answers, now, freshness } = this.#options
    const { origin, name } = repository
    const key = repositoryKey(repository)
    const what = `${question} of ${name}`
    if (origin.state.isAbsent(what)) return { value: undefined, cache: 'hit' }
    if (origin.state.isAbsent(name)) throw nameUnknown(repository)
    const known = await answers.get(key, question)
    const value = known && (await answers.value(key, question, known, parse))
    const isAbsent = known !== undefined && known.bodySize === undefined
    const { negativeTtlMs, staleBudgetMs, budgetMs } = freshness()
    if (known !== undefined && (isAbsent || value !== undefined)) {
      // What is said of an attestation is believed for long, also that there is nothing to ask.
      const believedMs = isAbsent && ttlMs !== ATTESTATION_TTL_MS ? negativeTtlMs : ttlMs
      if (this.#freshness.isYoung(known, believedMs)) return { value, cache: 'hit' }
    }
    if (value !== undefined && origin.state.isAbsent(goneListKey(what))) return { ...goneList(origin), value }
    const flight = flightKey(origin, what)
    if ((this.#tooLarge.get(flight) ?? 0) > now()) return 'too large'

    const stale = (failure: UpstreamError): Promise<Listed<T> | undefined> =>
      asked.stale(known, value, failure)
    const failed = this.#failures.get(flight)
    const remembered =
      origin.state.failing(name) ?? (failed && failed.until > now() ? failed.error : undefined)
    const atOnce = remembered === undefined ? undefined : await stale(remembered)
    if (atOnce !== undefined) return atOnce

    const join = async (budget: AbortSignal): Promise<Listed<T> | 'too large'> => {
      const { answer, joined } = await this.#flights.join(flight, budget, () =>
        this.#work(asked, known, value, flight),
      )
      if (answer.is === 'too large') return 'too large'
      if (answer.is === 'unchanged') return { value, cache: 'hit' }
      if (answer.is === 'absent') {
        const kept = value !== undefined && origin.on404 === 'keep'
        return kept ? { ...goneList(origin), value } : { value: undefined, cache: 'miss' }
      }
      return { value: parse(answer.body), cache: joined ? 'join' : 'miss' }
    }
    const late = (): UpstreamError =>
      new UpstreamError('unreachable', origin.upstream.key, 'no answer in time')
    const first = AbortSignal.timeout(Math.min(staleBudgetMs, budgetMs))
    try {
      return await join(AbortSignal.any([client, first]))
    } catch (error) {
      if (error !== first.reason || client.aborted) return await this.#insteadOf(error, asked, stale, flight)
    }
    const instead = await stale(late())
    if (instead !== undefined) {
      this.#remember(flight, late())
      return instead
    }
    // It comes, but takes long: a page of it need not wait for all the others.
    if (this.#pages.has(flight)) return 'too large'
    const rest = AbortSignal.timeout(Math.max(budgetMs - staleBudgetMs, 0))
    try {
      return await join(AbortSignal.any([client, rest]))
    } catch (error) {
      const isLate = error === rest.reason && !client.aborted
      return await this.#insteadOf(isLate ? late() : error, asked, stale, flight)
    }
  }

  async #insteadOf<T extends object>(
    error: unknown,
    { repository }: ListQuestion<T>,
    stale: (failure: UpstreamError) => Promise<Listed<T> | undefined>,
    flight: string,
  ): Promise<Listed<T>> {
    if (!(error instanceof UpstreamError)) throw error
    this.#remember(flight, error)
    const instead = await stale(error)
    if (instead !== undefined) return instead
    // What goes wrong with a list says nothing about pulls: the upstream's own state does not hear of it.
    throw await refusalOf(error, repository, this.#options.metadata.repositories)
  }

  #remember(flight: string, error: UpstreamError): void {
    const forMs = Math.min(error.retryAfterMs ?? FAILURE_MEMORY_MS, FAILURE_MEMORY_MS)
    this.#failures.set(flight, { error, until: this.#options.now() + forMs })
  }

  /** One question upstream for all who wait; it settles when its answer is written down. */
  async #work<T extends object>(
    { repository, question, subject, collect }: ListQuestion<T>,
    known: UpstreamAnswer | undefined,
    value: T | undefined,
    flight: string,
  ): Promise<Flight<Collected>> {
    const { answers, shelf, now, freshness } = this.#options
    const { origin, name } = repository
    const { budgetMs, negativeTtlMs } = freshness()
    const key = repositoryKey(repository)
    const deadline = AbortSignal.timeout(budgetMs * LIST_BUDGETS)
    try {
      const answer = await collect({
        upstream: origin.upstream,
        name,
        etag: value === undefined ? undefined : known?.etag,
        pageTimeoutMs: budgetMs * PAGE_BUDGETS,
        onPage: (pages) => this.#pages.set(flight, pages),
        signal: AbortSignal.any([deadline, this.#closing.signal]),
      })
      this.#failures.delete(flight)
      const at = now()
      if (answer.is === 'unchanged') {
        return {
          answer,
          after: known === undefined ? Promise.resolve() : answers.confirm(key, question, known, at),
        }
      }
      if (answer.is === 'absent') {
        const what = `${question} of ${name}`
        if (value !== undefined && origin.on404 === 'keep') {
          origin.state.rememberAbsent(goneListKey(what), negativeTtlMs)
          return { answer }
        }
        origin.state.rememberAbsent(what, negativeTtlMs)
        // Whoever makes names up must not fill the index.
        if (!(await shelf.serves(repository))) return { answer }
        return { answer, after: answers.put(key, question, { subject }, at) }
      }
      if (answer.is === 'too large') {
        this.#tooLarge.set(flight, at + TOO_LARGE_MEMORY_MS)
        return { answer }
      }
      const { body, etag } = answer
      return { answer, after: answers.put(key, question, { body, etag, subject }, at) }
    } catch (error) {
      if (error !== deadline.reason) throw error
      throw new UpstreamError('unreachable', origin.upstream.key, 'its list takes too long')
    } finally {
      this.#pages.delete(flight)
    }
  }

  /** Handed on, as upstream pages it. */
  async #pageOfTags(
    repository: MirroredName,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<TagsAnswer | undefined> {
    const page = await this.#ask(repository, signal, (limit) =>
      repository.origin.upstream.tags(repository.name, query, limit),
    )
    return page === undefined ? undefined : { ...inOrder(page, query), cache: 'miss' }
  }

  async #pageOfReferrers(
    repository: MirroredName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined> {
    const page = await this.#ask(repository, signal, (limit) =>
      repository.origin.upstream.referrers(repository.name, subject, query, limit),
    )
    if (page === undefined) return undefined
    const { bytes, filtersApplied, next } = page
    return { bytes, filtersApplied, next, cache: 'miss' }
  }

  async #ask<T>(
    repository: MirroredName,
    client: AbortSignal,
    ask: (limit: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const budget = AbortSignal.timeout(this.#options.freshness().budgetMs)
    try {
      return await ask(AbortSignal.any([client, budget]))
    } catch (error) {
      const { key } = repository.origin.upstream
      const failure =
        error === budget.reason ? new UpstreamError('unreachable', key, 'no answer in time') : error
      throw await refusalOf(failure, repository, this.#options.metadata.repositories)
    }
  }
}

function goneListKey(what: string): string {
  return `gone ${what}`
}

/** A page of all there is, which is in order. */
function pageOf(all: readonly string[], query: URLSearchParams): Pick<TagPage, 'tags' | 'next'> {
  const { n = Infinity, last } = parsePage(query)
  if (n === 0) return { tags: [], next: undefined }
  const start = last === undefined ? 0 : all.findIndex((tag) => tag > last)
  if (start < 0) return { tags: [], next: undefined }
  const tags = all.slice(start, start + n)
  const end = tags.at(-1)
  if (end === undefined || start + n >= all.length) return { tags, next: undefined }
  return { tags, next: new URLSearchParams({ n: String(n), last: end }) }
}

/**
 * A page of a list that is not put together: upstream's own order is what its cursors go by. A registry that knows
 * nothing of pages (Docker's, before its version 3) sends everything every time: then the pages are ours.
 */
function inOrder(page: TagPage, query: URLSearchParams): Pick<TagPage, 'tags' | 'next'> {
  const { n = Infinity, last } = parsePage(query)
  if (n === 0) return { tags: [], next: undefined }
  const { tags, next } = page
  if (next !== undefined || query.has('next_page')) return { tags, next }
  const isAll = last === undefined || tags.length > n || tags.includes(last)
  return isAll ? pageOf(tags.toSorted(), query) : { tags, next }
}
