/**
 * Reference -> manifest: what a tag names now, and for how long we believe it.
 *
 * By digest: immutable, upstream is asked once. By tag: younger than its TTL from here; older, one HEAD decides
 * (it costs no Docker Hub pull). An upstream that cannot say leaves the cached tag answering, marked stale.
 * Here is decided whether upstream is asked, how long it may take, and what answers when it does not;
 * `manifest-fetcher.ts` does the asking. docs/architecture.md "Freshness" is the law of both.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { isDigestReference, type Reference, type Tag } from '../../oci/reference.ts'
import type { MetadataStore, TagRecord } from '../../storage/metadata/metadata.ts'
import { tagQuestion } from '../../storage/metadata/upstream-answer-index.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import type { ManifestHead } from '../answers.ts'
import type { CacheStatus } from '../cache-status.ts'
import type { AnswerCache } from '../lists/answer-cache.ts'
import { ATTESTATION_TTL_MS, isAttestation } from '../prefetch/attestation.ts'
import { Freshness, gone, marked, type FreshnessSettings, type Stale } from './freshness.ts'
import type { Manifest, ManifestStore } from './manifest-store.ts'
import { headAnswer, headOf, ManifestFetcher, type Checked, type Fetched } from './manifest-fetcher.ts'
import { flightKey, repositoryKey, type MirrorRef } from '../origin.ts'
import { subjectHere } from '../lists/referrers-tag.ts'
import { nameUnknown, refusalOf } from '../resilience/client-errors.ts'
import { SingleFlight, type Flight } from '../../base/single-flight.ts'
import type { StorageHealth } from '../resilience/storage-health.ts'
import { abandonable } from '../../base/condition.ts'

/** Longest life of work upstream, in header budgets: a hanging one must not keep later requests from asking anew. */
const WORK_BUDGETS = 2

interface ManifestCacheOptions {
  readonly shelf: ManifestStore
  readonly metadata: MetadataStore
  readonly answers: AnswerCache
  readonly health: StorageHealth
  readonly freshness: () => FreshnessSettings
  readonly log: Logger
  readonly now: () => Milliseconds
}

/** A manifest and how it came to be answered. */
interface CachedManifest {
  readonly manifest: Manifest
  readonly cache: CacheStatus
  readonly warning?: string
}

export class ManifestCache {
  readonly #options: ManifestCacheOptions
  readonly #closing = new AbortController()
  readonly #fetches = new SingleFlight<Fetched>()
  readonly #checks = new SingleFlight<Checked>()
  readonly #source: ManifestFetcher
  readonly #freshness: Freshness

  constructor(options: ManifestCacheOptions) {
    this.#options = options
    this.#freshness = new Freshness(options.freshness, options.now)
    this.#source = new ManifestFetcher({ ...options, negativeTtlMs: () => options.freshness().negativeTtlMs })
  }

  /** @throws OciError when upstream is needed and cannot; `undefined` when it says that there is none */
  async get(
    repository: MirrorRef,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<CachedManifest | undefined> {
    if (isDigestReference(reference)) return this.#getDigest(repository, reference, signal)
    const what = `${repository.name}:${reference}`
    const record = await this.#record(repository, reference, what)
    if (record === 'absent') return undefined
    const absence = record === undefined ? await this.#absence(repository, reference) : undefined
    if (absence?.fresh === true) return undefined
    if (record !== undefined && this.#freshness.isFresh(repository, record)) {
      const found = await this.#getDigest(repository, record.digest, signal)
      // Not there any more: then the tag has moved since a HEAD told us of it.
      if (found !== undefined) return found
    }
    const held =
      record === undefined ? undefined : await this.#options.shelf.get(record.digest, record.mediaType)
    if (held !== undefined && this.#source.isGone(repository, reference)) {
      return { manifest: held, ...gone(repository.origin) }
    }
    const stale = (failure: UpstreamError): CachedManifest | undefined => {
      if (absence !== undefined) this.#assertNotAbsent(repository, reference, absence, failure)
      return record !== undefined && held !== undefined
        ? mark(this.#freshness.stale(repository, record, failure), (marked) => ({
            manifest: held,
            ...marked,
          }))
        : undefined
    }
    const spared = this.spares(repository, reference)
    const instead = spared === undefined ? undefined : stale(spared)
    if (instead !== undefined) return instead
    const spare =
      held !== undefined && record !== undefined && this.#freshness.staleUsable(repository, record)
    const inStead = held !== undefined || this.#wouldStandIn(repository, absence)
    return this.#within(repository, inStead, stale, signal, async (budget) => {
      const { answer, joined } = await this.#fetches.join(flightKey(repository.origin, what), budget, () =>
        this.#work(repository, (work) =>
          record === undefined
            ? this.#source.fetchTag(repository, reference, undefined, work)
            : this.#source.revalidate(repository, record, spare, work),
        ),
      )
      return answer === false ? undefined : { ...answer, cache: joinedCache(joined, answer.cache) }
    })
  }

  /** Like {@link get}, but never costs upstream more than a HEAD where a HEAD can tell. */
  async head(
    repository: MirrorRef,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<ManifestHead | undefined> {
    if (isDigestReference(reference)) return this.#headDigest(repository, reference, signal)
    const what = `${repository.name}:${reference}`
    const record = await this.#record(repository, reference, what)
    if (record === 'absent') return undefined
    if (record === undefined && this.#source.rememberedHead(repository, reference) === 'absent')
      return undefined
    const absence = record === undefined ? await this.#absence(repository, reference) : undefined
    if (absence?.fresh === true) return undefined
    const described = record && (await this.#options.shelf.described(repository, record))
    const promised = described !== undefined && described.state !== 'lost' && record !== undefined
    if (promised && this.#freshness.isFresh(repository, record)) return toldByHead(described)
    if (promised && this.#source.isGone(repository, reference)) {
      return { ...headOf(described), ...gone(repository.origin) }
    }
    const stale = (failure: UpstreamError): ManifestHead | undefined => {
      if (absence !== undefined) this.#assertNotAbsent(repository, reference, absence, failure)
      return !promised
        ? undefined
        : mark(this.#freshness.stale(repository, record, failure), (marked) => ({
            ...headOf(described),
            ...marked,
          }))
    }
    const spared = this.spares(repository, reference)
    const instead = spared === undefined ? undefined : stale(spared)
    if (instead !== undefined) return instead
    const told = this.#source.toldMove(repository, reference)
    if (told !== undefined && this.#freshness.isFresh(repository, told) && !this.#failing(repository)) {
      return toldByHead(await this.#options.shelf.described(repository, told))
    }
    const spare = promised && this.#freshness.staleUsable(repository, record)
    return this.#within(
      repository,
      promised || this.#wouldStandIn(repository, absence),
      stale,
      signal,
      async (budget) => {
        const { answer } = await this.#checks.join(flightKey(repository.origin, what), budget, () =>
          this.#work(repository, (work) => this.#source.checkTag(repository, reference, record, spare, work)),
        )
        if (answer === false) return undefined
        const { head, ...marked } = answer
        return { ...head, ...marked }
      },
    )
  }

  /**
   * What the tag is now, however young what we know of it is, and whatever it costs. Who asks for the tag meanwhile
   * joins; who asks already may be sparing pulls, and is waited for. Resolves when it is written down.
   *
   * @throws OciError when upstream cannot say
   */
  async refresh(repository: MirrorRef, tag: Tag, signal: AbortSignal): Promise<CachedManifest | undefined> {
    const key = flightKey(repository.origin, `${repository.name}:${tag}`)
    const known = await this.#options.metadata.tags.get(repositoryKey(repository), tag)
    const record = known?.deletedAt === undefined ? known : undefined
    const found = await this.#within(repository, false, nothingStale, signal, async (budget) => {
      await abandonable(this.#fetches.settled(key), budget)
      const { answer } = await this.#fetches.join(key, budget, () =>
        this.#work(repository, (work) =>
          record === undefined
            ? this.#source.fetchTag(repository, tag, undefined, work)
            : this.#source.revalidate(repository, record, false, work),
        ),
      )
      return answer === false ? undefined : answer
    })
    await this.#fetches.settled(key)
    return found
  }

  /** Resolves when what is being fetched of it at the moment, if anything is, has been written down. */
  async settled(repository: MirrorRef, reference: Reference): Promise<void> {
    const at = isDigestReference(reference) ? '@' : ':'
    await this.#fetches.settled(flightKey(repository.origin, `${repository.name}${at}${reference}`))
  }

  /** What upstream said of it is not believed any more: it was taken away by hand, and the next pull asks anew. */
  forget(repository: MirrorRef, reference: Reference): void {
    this.#source.forget(repository, reference)
  }

  /** Asks upstream nothing more; resolves when everything that was fetched is written down. */
  async close(): Promise<void> {
    this.#closing.abort(new OciError('UNAVAILABLE', undefined, { message: 'shutting down' }))
    await Promise.all([this.#fetches.idle(), this.#checks.idle()])
  }

  async #getDigest(
    repository: MirrorRef,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<CachedManifest | undefined> {
    const { shelf } = this.#options
    const record = await shelf.record(repository, digest)
    if (record !== undefined) {
      const manifest = await shelf.get(digest, record.mediaType)
      if (manifest !== undefined) return { manifest, cache: 'hit' }
    }
    const what = `${repository.name}@${digest}`
    if (repository.origin.state.isAbsent(what)) return undefined
    return this.#within(repository, false, nothingStale, signal, async (budget) => {
      const { answer, joined } = await this.#fetches.join(flightKey(repository.origin, what), budget, () =>
        this.#work(repository, (work) => this.#source.fetchDigest(repository, digest, undefined, work)),
      )
      return answer === false ? undefined : { ...answer, cache: joinedCache(joined, answer.cache) }
    })
  }

  async #headDigest(
    repository: MirrorRef,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<ManifestHead | undefined> {
    const { shelf } = this.#options
    // What an index of this repository says of its child is as good as upstream's own word.
    const named = (await shelf.record(repository, digest)) ?? (await shelf.namedManifest(repository, digest))
    const size = named?.size
    if (named !== undefined && size !== undefined) {
      const described = await shelf.described(repository, { ...named, size })
      if (described.state !== 'lost') return toldByHead(described)
    }
    const what = `${repository.name}@${digest}`
    const remembered = this.#source.rememberedHead(repository, digest)
    if (remembered !== undefined)
      return remembered === 'absent' ? undefined : { ...remembered, cache: 'miss' }
    if (repository.origin.state.isAbsent(what)) return undefined
    return this.#within(repository, false, nothingStale, signal, async (budget) => {
      const { answer } = await this.#checks.join(flightKey(repository.origin, what), budget, () =>
        this.#work(repository, (work) => this.#source.checkDigest(repository, digest, work)),
      )
      return answer === false ? undefined : { ...answer.head, cache: answer.cache }
    })
  }

  /** The tag as we know it; tombstones do not count. */
  async #record(repository: MirrorRef, tag: Tag, what: string): Promise<TagRecord | 'absent' | undefined> {
    const { state } = repository.origin
    if (state.isAbsent(what)) return 'absent'
    if (state.isAbsent(repository.name)) throw nameUnknown(repository)
    const record = await this.#options.metadata.tags.get(repositoryKey(repository), tag)
    return record?.deletedAt === undefined ? record : undefined
  }

  /**
   * What is known of a tag that is not here: since when upstream says that there is none, and whether it is the
   * referrers tag of a manifest that is here. Undefined: nothing.
   */
  async #absence(repository: MirrorRef, tag: Tag): Promise<Absence | undefined> {
    const { metadata, answers, shelf } = this.#options
    const key = repositoryKey(repository)
    const answer = await answers.get(key, tagQuestion(tag))
    const tombstone = await metadata.tags.get(key, tag)
    const checkedAt = answer?.checkedAt ?? tombstone?.deletedAt
    const subject = await subjectHere(shelf, repository, tag)
    if (checkedAt === undefined) return subject === undefined ? undefined : { subject, fresh: false }
    const attestation = subject !== undefined && isAttestation(await shelf.namedManifest(repository, subject))
    const ttlMs = attestation ? ATTESTATION_TTL_MS : this.#freshness.settings.negativeTtlMs
    return { checkedAt, subject, fresh: this.#freshness.isYoung({ checkedAt }, ttlMs) }
  }

  /** Whether "there is none" could answer, should upstream not say. */
  #wouldStandIn(repository: MirrorRef, absence: Absence | undefined): boolean {
    if (absence === undefined) return false
    const { checkedAt, subject } = absence
    if (subject !== undefined) return true
    return checkedAt !== undefined && this.#freshness.staleUsable(repository, { checkedAt })
  }

  /** @throws OciError MANIFEST_UNKNOWN, marked stale, where upstream's "there is none" still counts */
  #assertNotAbsent(repository: MirrorRef, tag: Tag, absence: Absence, failure: UpstreamError): void {
    const { checkedAt, subject } = absence
    const stale =
      checkedAt === undefined ? undefined : this.#freshness.stale(repository, { checkedAt }, failure)
    // It is asked for with a manifest that is served for as long as it is here: then so is this.
    const { warning } =
      stale ??
      (subject === undefined
        ? { warning: undefined }
        : marked(repository.origin, failure, 'no list of referrers is here'))
    if (warning === undefined) return
    const what = { name: repository.name, reference: tag }
    throw new OciError('MANIFEST_UNKNOWN', what, { staleWarning: warning, cause: failure })
  }

  /** Since when that tag is known not to be there, as far as it still counts without asking. For people. */
  async isKnownAbsent(repository: MirrorRef, tag: Tag): Promise<boolean> {
    return (await this.#absence(repository, tag))?.fresh === true
  }

  /**
   * Why what the tag has become, as upstream said within the TTL, is not fetched now; undefined: nobody said so, or
   * nothing keeps us from it.
   */
  spares(repository: MirrorRef, tag: Tag): UpstreamError | undefined {
    const told = this.#source.toldMove(repository, tag)
    if (told === undefined || !this.#freshness.isFresh(repository, told)) return undefined
    const { upstream, reserve } = repository.origin
    return upstream.quotaBelow(reserve)
  }

  /** Then what is here answers, not what can be had from upstream alone. */
  #failing({ origin, name }: MirrorRef): boolean {
    return origin.state.failing(name) !== undefined
  }

  /**
   * Waits for `ask` as long as the budget allows and turns what goes wrong into a stale answer or a refusal.
   * The work behind `ask` goes on when the budget is over.
   */
  async #within<T>(
    repository: MirrorRef,
    hasStale: boolean,
    stale: (failure: UpstreamError) => T | undefined,
    client: AbortSignal,
    ask: (budget: AbortSignal) => Promise<T | undefined>,
  ): Promise<T | undefined> {
    const { state, upstream } = repository.origin
    const remembered = state.failing(repository.name)
    const atOnce = remembered === undefined ? undefined : stale(remembered)
    if (atOnce !== undefined) return atOnce
    const { staleBudgetMs, budgetMs } = this.#freshness.settings
    const budget = AbortSignal.timeout(hasStale ? staleBudgetMs : budgetMs)
    try {
      return await ask(AbortSignal.any([client, budget]))
    } catch (error) {
      if (error !== budget.reason || client.aborted) {
        if (!(error instanceof UpstreamError)) throw error
        return stale(error) ?? (await this.#refuse(repository, error))
      }
      const late = new UpstreamError('unreachable', upstream.key, 'no answer within the header budget')
      state.failed(repository.name, late)
      return stale(late) ?? (await this.#refuse(repository, late))
    }
  }

  /** Nothing here can answer. */
  async #refuse(repository: MirrorRef, failure: UpstreamError): Promise<never> {
    throw await refusalOf(failure, repository, this.#options.metadata.repositories)
  }

  /** One piece of work upstream, with its own end, reported to the state whoever still waits. */
  async #work<T>(
    repository: MirrorRef,
    work: (signal: AbortSignal) => Promise<Flight<T>>,
  ): Promise<Flight<T>> {
    const { state, upstream } = repository.origin
    const deadline = AbortSignal.timeout(this.#freshness.settings.budgetMs * WORK_BUDGETS)
    try {
      const flight = await work(AbortSignal.any([deadline, this.#closing.signal]))
      state.answered(repository.name)
      return flight
    } catch (error) {
      const failure =
        error === deadline.reason ? new UpstreamError('unreachable', upstream.key, 'no answer at all') : error
      if (failure instanceof UpstreamError) state.failed(repository.name, failure)
      throw failure
    }
  }
}

interface Absence {
  /** Undefined: upstream was never asked. */
  readonly checkedAt?: Milliseconds
  readonly subject: Digest | undefined
  readonly fresh: boolean
}

function toldByHead(described: Parameters<typeof headAnswer>[0]): ManifestHead {
  const { head, cache } = headAnswer(described)
  return { ...head, cache }
}

function mark<T>(marked: Stale | undefined, build: (marked: Stale) => T): T | undefined {
  return marked === undefined ? undefined : build(marked)
}

/** Who joins a download joins; who joins a question that is answered from here has a hit all the same. */
function joinedCache(joined: boolean, cache: CacheStatus): CacheStatus {
  return joined && cache === 'miss' ? 'join' : cache
}

function nothingStale(): undefined {
  return undefined
}
