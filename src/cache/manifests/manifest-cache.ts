/**
 * Manifest cache: what a reference names now, and how long that is believed.
 *
 * A digest is immutable, so upstream is asked once. A tag younger than its TTL is answered from here; an older one
 * costs a HEAD (which is no Docker Hub pull). When upstream cannot say, the cached tag answers, marked stale.
 * `pull-plan.ts` decides whether upstream is asked, and `manifest-fetcher.ts` asks; this executes the plan within the
 * header budget. The rules of all three are docs/architecture.md "Freshness".
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { isDigestReference, type Reference, type Tag } from '../../oci/reference.ts'
import type { MetadataStore, TagRecord } from '../../storage/metadata/metadata.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import type { ManifestHead } from '../answers.ts'
import type { CacheMarks } from '../cache-status.ts'
import type { AnswerCache } from '../lists/answer-cache.ts'
import { Freshness, gone, type FreshnessSettings } from './freshness.ts'
import type { ManifestStore } from './manifest-store.ts'
import {
  headAnswer,
  ManifestFetcher,
  type CachedManifest,
  type Checked,
  type Fetched,
  type Head,
} from './manifest-fetcher.ts'
import { planPull } from './pull-plan.ts'
import { TagFacts } from './tag-facts.ts'
import { flightKey, repositoryKey, type MirrorRef } from '../origin.ts'
import { nameUnknown, refusalOf } from '../resilience/client-errors.ts'
import { SingleFlight, type Flight } from '../../base/single-flight.ts'
import type { StorageHealth } from '../resilience/storage-health.ts'
import { abandonable } from '../../base/condition.ts'
import { HEADER_BUDGET_IS_OVER, withTimeLimit } from '../time-limit.ts'

/** Longest life of work upstream, in header budgets: a hanging one must not keep later requests from asking anew. */
const WORK_BUDGETS = 2

interface ManifestCacheOptions {
  readonly manifestStore: ManifestStore
  readonly metadata: MetadataStore
  readonly answers: AnswerCache
  readonly health: StorageHealth
  readonly freshness: () => FreshnessSettings
  readonly log: Logger
  readonly now: () => Milliseconds
}

interface TagPull {
  readonly repository: MirrorRef
  readonly reference: Tag
  readonly record: TagRecord | undefined
}

/** How one HTTP method is answered for a tag; `Held` is the answer without its cache marks. */
interface TagMethod<Held extends object> {
  /** Answers with the manifest of a tag that is believed; undefined: upstream has to be asked after all. */
  fresh(repository: MirrorRef, record: TagRecord, signal: AbortSignal): Promise<Answer<Held> | undefined>
  held(repository: MirrorRef, record: TagRecord): Promise<Held | undefined>
  /** Answers with what a HEAD told; left out where the bytes are needed. */
  fromHead?(repository: MirrorRef, told: TagRecord): Promise<Answer<Held>>
  /** @param spare a cached manifest can answer, so that none of the last pulls is spent */
  ask(pull: TagPull, spare: boolean, budget: AbortSignal): Promise<Answer<Held> | undefined>
}

type Answer<Held> = Held & CacheMarks

export class ManifestCache {
  readonly #options: ManifestCacheOptions
  readonly #closing = new AbortController()
  readonly #fetches = new SingleFlight<Fetched>()
  readonly #checks = new SingleFlight<Checked>()
  readonly #source: ManifestFetcher
  readonly #freshness: Freshness
  readonly tags: TagFacts

  readonly #byGet: TagMethod<Pick<CachedManifest, 'manifest'>> = {
    fresh: (repository, { digest }, signal) => this.#getDigest(repository, digest, signal),
    held: async (_repository, { digest, mediaType }) => {
      const manifest = await this.#options.manifestStore.get(digest, mediaType)
      return manifest && { manifest }
    },
    ask: (pull, spare, budget) => this.#fetch(pull, spare, budget),
  }

  readonly #byHead: TagMethod<Head> = {
    fresh: (repository, record) => this.#describe(repository, record),
    held: (repository, record) => this.#describe(repository, record),
    fromHead: async (repository, told) =>
      headAnswer(await this.#options.manifestStore.described(repository, told)),
    ask: ({ repository, reference, record }, spare, budget) =>
      this.#join(this.#checks, { repository, reference }, budget, (work) =>
        this.#source.checkTag(repository, reference, record, spare, work),
      ),
  }

  constructor(options: ManifestCacheOptions) {
    this.#options = options
    this.#freshness = new Freshness(options.freshness, options.now)
    this.#source = new ManifestFetcher({ ...options, negativeTtlMs: () => options.freshness().negativeTtlMs })
    this.tags = new TagFacts(options, this.#freshness, this.#source)
  }

  /** @returns undefined when upstream has none. @throws OciError when upstream is needed and cannot */
  get(repository: MirrorRef, reference: Reference, signal: AbortSignal): Promise<CachedManifest | undefined> {
    return isDigestReference(reference)
      ? this.#getDigest(repository, reference, signal)
      : this.#answer(repository, reference, signal, this.#byGet)
  }

  /** Like {@link get}, but never costs upstream more than a HEAD where a HEAD suffices. */
  head(repository: MirrorRef, reference: Reference, signal: AbortSignal): Promise<ManifestHead | undefined> {
    return isDigestReference(reference)
      ? this.#headDigest(repository, reference, signal)
      : this.#answer(repository, reference, signal, this.#byHead)
  }

  /**
   * Asks what the tag is now, however young the cached record is, and whatever it costs. Later requests for the tag
   * join; a running flight may be sparing pulls, and is awaited first. Resolves when the answer is recorded.
   *
   * @throws OciError when upstream cannot say
   */
  async refresh(repository: MirrorRef, tag: Tag, signal: AbortSignal): Promise<CachedManifest | undefined> {
    const known = await this.#options.metadata.tags.get(repositoryKey(repository), tag)
    const record = known?.deletedAt === undefined ? known : undefined
    const found = await this.#within(repository, signal, async (budget) => {
      await abandonable(this.settled(repository, tag), budget)
      return this.#fetch({ repository, reference: tag, record }, false, budget)
    })
    await this.settled(repository, tag)
    return found
  }

  /** Resolves when the running fetch of it, if there is one, has been recorded. */
  settled(repository: MirrorRef, reference: Reference): Promise<void> {
    return this.#fetches.settled(flightOf(repository, reference))
  }

  /** After a removal by hand: earlier answers of upstream are not believed any more, and the next pull asks anew. */
  forget(repository: MirrorRef, reference: Reference): void {
    this.#source.forget(repository, reference)
  }

  /** Asks upstream nothing more; resolves when everything that was fetched is recorded. */
  async close(): Promise<void> {
    this.#closing.abort(new OciError('UNAVAILABLE', undefined, { message: 'shutting down' }))
    await Promise.all([this.#fetches.idle(), this.#checks.idle()])
  }

  async #answer<Held extends object>(
    repository: MirrorRef,
    tag: Tag,
    signal: AbortSignal,
    method: TagMethod<Held>,
  ): Promise<Answer<Held> | undefined> {
    const known = await this.tags.known(repository, tag, method.fromHead !== undefined)
    const early = planPull(known)
    if (early === 'unknown repository') throw nameUnknown(repository)
    if (early === 'absent') return undefined
    const { record, absence } = known
    if (record !== undefined && early === 'fresh') {
      const found = await method.fresh(repository, record, signal)
      // The digest that a HEAD told is gone upstream: the tag has moved since, and is resolved again.
      if (found !== undefined) return found
    }
    const held = record && (await method.held(repository, record))
    const stale = (failure: UpstreamError): Answer<Held> | undefined => {
      if (absence !== undefined) this.tags.assertNotAbsent(repository, tag, absence, failure)
      if (record === undefined || held === undefined) return undefined
      const marks = this.#freshness.stale(repository, record, failure)
      return marks && { ...held, ...marks }
    }
    const { origin, name } = repository
    const failing = origin.state.failing(name)
    const facts = this.tags.facts(repository, tag, known, held !== undefined, failing)
    const plan = planPull(facts)
    if (plan === 'kept' && held !== undefined) return { ...held, ...gone(origin) }
    const failure = plan === 'spared' ? origin.upstream.quotaBelow(origin.reserve) : failing
    const instead = plan === 'ask' || failure === undefined ? undefined : stale(failure)
    if (instead !== undefined) return instead
    const told = plan === 'moved' ? this.#source.toldMove(repository, tag) : undefined
    if (told !== undefined && method.fromHead !== undefined) return method.fromHead(repository, told)
    const { staleBudgetMs, budgetMs } = this.#freshness.settings
    const usable = facts.ageMs !== undefined && facts.ageMs <= this.#freshness.staleForMs(origin)
    return this.#within(
      repository,
      signal,
      (budget) => method.ask({ repository, reference: tag, record }, held !== undefined && usable, budget),
      stale,
      held !== undefined || usable ? staleBudgetMs : budgetMs,
    )
  }

  async #getDigest(
    repository: MirrorRef,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<CachedManifest | undefined> {
    const { manifestStore } = this.#options
    const record = await manifestStore.record(repository, digest)
    if (record !== undefined) {
      const manifest = await manifestStore.get(digest, record.mediaType)
      if (manifest !== undefined) return { manifest, cache: 'hit' }
    }
    if (repository.origin.state.absent.has('manifest', repository.name, digest)) return undefined
    return this.#within(repository, signal, (budget) =>
      this.#join(this.#fetches, { repository, reference: digest }, budget, (work) =>
        this.#source.fetchDigest(repository, digest, undefined, work),
      ),
    )
  }

  async #headDigest(
    repository: MirrorRef,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<ManifestHead | undefined> {
    const { manifestStore } = this.#options
    // The descriptor in an index of this repository is as good as upstream's own answer.
    const named =
      (await manifestStore.record(repository, digest)) ??
      (await manifestStore.namedManifest(repository, digest))
    const size = named?.size
    if (named !== undefined && size !== undefined) {
      const described = await manifestStore.described(repository, { ...named, size })
      if (described.state !== 'lost') return headAnswer(described)
    }
    const remembered = this.#source.rememberedHead(repository, digest)
    if (remembered === 'absent') return undefined
    if (remembered !== undefined) return { ...remembered, cache: 'miss' }
    if (repository.origin.state.absent.has('manifest', repository.name, digest)) return undefined
    return this.#within(repository, signal, (budget) =>
      this.#join(this.#checks, { repository, reference: digest }, budget, (work) =>
        this.#source.checkDigest(repository, digest, work),
      ),
    )
  }

  async #describe(repository: MirrorRef, record: TagRecord): Promise<ManifestHead | undefined> {
    const described = await this.#options.manifestStore.described(repository, record)
    return described.state === 'lost' ? undefined : headAnswer(described)
  }

  #fetch(
    { repository, reference, record }: TagPull,
    spare: boolean,
    budget: AbortSignal,
  ): Promise<CachedManifest | undefined> {
    return this.#join(this.#fetches, { repository, reference }, budget, (work) =>
      this.#source.resolveTag(repository, reference, record, spare, work),
    )
  }

  async #join<T extends CacheMarks>(
    flights: SingleFlight<T | false>,
    { repository, reference }: { repository: MirrorRef; reference: Reference },
    budget: AbortSignal,
    work: (signal: AbortSignal) => Promise<Flight<T | false>>,
  ): Promise<T | undefined> {
    const { answer, joined } = await flights.join(flightOf(repository, reference), budget, () =>
      this.#work(repository, work),
    )
    if (answer === false) return undefined
    // Only a download is joined: an answer from here stays a hit, and a HEAD a miss.
    return joined && answer.cache === 'miss' && 'manifest' in answer ? { ...answer, cache: 'join' } : answer
  }

  /**
   * Waits for `ask` within the budget, and turns a failure into a stale answer or a refusal. The work behind `ask`
   * goes on when the budget is over.
   */
  async #within<T>(
    repository: MirrorRef,
    client: AbortSignal,
    ask: (budget: AbortSignal) => Promise<T | undefined>,
    stale: (failure: UpstreamError) => T | undefined = () => undefined,
    budgetMs = this.#freshness.settings.budgetMs,
  ): Promise<T | undefined> {
    const { origin, name } = repository
    try {
      return await withTimeLimit(origin.upstream, budgetMs, HEADER_BUDGET_IS_OVER, client, ask)
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error
      origin.state.failed(name, error)
      const instead = stale(error)
      if (instead !== undefined) return instead
      throw await refusalOf(error, repository, this.#options.metadata.repositories)
    }
  }

  /** One piece of work upstream, with its own time limit; its outcome is recorded even when no client waits. */
  async #work<T>(
    repository: MirrorRef,
    work: (signal: AbortSignal) => Promise<Flight<T>>,
  ): Promise<Flight<T>> {
    const { state, upstream } = repository.origin
    const mostMs = this.#freshness.settings.budgetMs * WORK_BUDGETS
    try {
      const flight = await withTimeLimit(upstream, mostMs, 'no answer at all', this.#closing.signal, work)
      state.answered(repository.name)
      return flight
    } catch (error) {
      if (error instanceof UpstreamError) state.failed(repository.name, error)
      throw error
    }
  }
}

function flightOf({ origin, name }: MirrorRef, reference: Reference): string {
  return flightKey(origin, `${name} ${reference}`)
}
