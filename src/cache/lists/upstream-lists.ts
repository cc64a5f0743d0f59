/**
 * Tag lists and referrers of a mirrored repository, cached as tags are.
 *
 * A list of upstream is kept whole in the index (`answer-cache.ts`): a young one is answered from here, an old one
 * asked of upstream once for all clients, and it is answered stale whenever a tag of that repository would be. A list
 * that was never asked for, while upstream cannot say, is made of what is cached: never an empty list of tags, and
 * referrers only for a cached manifest, because a signature check would take an empty list for "unsigned".
 * Without a referrers API upstream the answer is "absent", so that clients fall back to the tag schema.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { referrersPage } from '../../oci/referrers.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import { referrersQuestion, TAG_LIST } from '../../storage/metadata/upstream-answer-index.ts'
import type { UpstreamError } from '../../upstream/upstream.ts'
import type { ReferrersAnswer, TagsAnswer } from '../answers.ts'
import { ATTESTATION_TTL_MS, isAttestation } from '../prefetch/attestation.ts'
import { turnFor } from '../../base/turns.ts'
import {
  CachedLists,
  type CachedListsOptions,
  type Known,
  type Listed,
  type ListQuestion,
} from './cached-lists.ts'
import { Freshness, marked } from '../manifests/freshness.ts'
import { cursorOf, inOrder, pageOf, upstreamQueryOf } from './list-cursors.ts'
import {
  collectReferrers,
  collectTags,
  manifestsIn,
  nextOf,
  pageOfReferrers,
  pageOfTags,
  type ListedReferrer,
} from './list-pages.ts'
import type { ManifestStore } from '../manifests/manifest-store.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'
import { withTimeLimit } from '../time-limit.ts'
import { nameUnknown, refusalOf } from '../resilience/client-errors.ts'

/** The most cached tags that are listed in place of upstream's list. */
const MOST_HERE = 10_000

interface ListingsOptions extends CachedListsOptions {
  readonly metadata: Pick<MetadataStore, 'repositories' | 'tags' | 'manifests'>
  readonly manifestStore: Pick<ManifestStore, 'record' | 'namedManifest' | 'serves'>
}

interface Referrers {
  /** Upstream's own; undefined where the list was made here. */
  readonly bytes: Buffer | undefined
  readonly manifests: readonly ListedReferrer[]
}

export class UpstreamLists {
  readonly #options: ListingsOptions
  readonly #freshness: Freshness
  readonly #lists: CachedLists

  constructor(options: ListingsOptions) {
    this.#options = options
    this.#lists = new CachedLists(options)
    this.#freshness = new Freshness(options.freshness, options.now)
  }

  /**
   * @returns undefined when upstream has no such repository
   * @throws OciError UNAVAILABLE, DENIED or NAME_UNKNOWN
   */
  async tags(
    repository: MirrorRef,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<TagsAnswer | undefined> {
    const { upstream } = repository.origin
    return this.#answer<readonly string[], TagsAnswer>(this.#tagList(repository), query, signal, {
      handOn: async (ofUpstream, limit) => {
        const page = await pageOfTags(upstream, repository.name, ofUpstream, limit)
        if (page === undefined) return undefined
        const { tags, next } = await inOrder({ ...page, next: nextOf(page, ofUpstream) }, ofUpstream)
        return { tags, next: cursorOf(next), cache: 'miss' }
      },
      fromHere: ({ value, ...marks }) => {
        if (value !== undefined) return { ...pageOf(value, query), ...marks }
        if (marks.warning === undefined) return undefined
        throw nameUnknown(repository, undefined, marks.warning)
      },
    })
  }

  /**
   * @returns undefined when upstream has no referrers API
   * @throws OciError UNAVAILABLE, DENIED or NAME_UNKNOWN
   */
  async referrers(
    repository: MirrorRef,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
  ): Promise<ReferrersAnswer | undefined> {
    const { upstream } = repository.origin
    return this.#answer<Referrers, ReferrersAnswer>(
      await this.#referrersOf(repository, subject),
      query,
      signal,
      {
        handOn: async (ofUpstream, limit) => {
          const page = await pageOfReferrers(upstream, repository.name, subject, ofUpstream, limit)
          if (page === undefined) return undefined
          const { bytes, filtersApplied } = page
          return { bytes, filtersApplied, next: cursorOf(nextOf(page, ofUpstream)), cache: 'miss' }
        },
        fromHere: async ({ value, ...marks }) => {
          if (value === undefined) {
            if (marks.warning === undefined) return undefined
            const message = 'no referrers API for this repository'
            throw new OciError('NOT_FOUND', undefined, { message, staleWarning: marks.warning })
          }
          const { bytes, manifests } = value
          const asItCame = ['artifactType', 'n', 'last'].every((name) => !query.has(name))
          if (!asItCame || bytes === undefined) {
            await turnFor(bytes?.length ?? 0)
            return { ...referrersPage(manifests, query), ...marks }
          }
          return { bytes, filtersApplied: undefined, next: undefined, ...marks }
        },
      },
    )
  }

  /** The descriptors of all referrers, as {@link referrers} would list them; undefined: upstream has no such API. */
  async allReferrers(
    repository: MirrorRef,
    subject: Digest,
    signal: AbortSignal,
  ): Promise<readonly ListedReferrer[] | undefined> {
    const found = await this.#lists.list(await this.#referrersOf(repository, subject), signal)
    return 'handOnMs' in found ? [] : found.value?.manifests
  }

  /** The same from the index; upstream is not asked. */
  async storedReferrers(repository: MirrorRef, subject: Digest): Promise<readonly ListedReferrer[]> {
    return (await this.#lists.known(await this.#referrersOf(repository, subject)))?.value?.manifests ?? []
  }

  /** Asks upstream nothing more; resolves when all lists that came are recorded. */
  close(): Promise<void> {
    return this.#lists.close()
  }

  #tagList(repository: MirrorRef): ListQuestion<readonly string[]> {
    return {
      repository,
      question: TAG_LIST,
      ttlMs: repository.origin.tagTtlMs,
      negativeTtlMs: this.#options.freshness().negativeTtlMs,
      collect: collectTags,
      parse: (body) => JSON.parse(body.toString()) as string[],
      stale: (known, failure) => this.#staleTags(repository, known, failure),
    }
  }

  async #referrersOf(repository: MirrorRef, subject: Digest): Promise<ListQuestion<Referrers>> {
    const attestation = isAttestation(await this.#options.manifestStore.namedManifest(repository, subject))
    return {
      repository,
      question: referrersQuestion(subject),
      subject,
      // An attestation has no new referrers for long, so their absence is believed for long, too.
      ttlMs: attestation ? ATTESTATION_TTL_MS : repository.origin.tagTtlMs,
      negativeTtlMs: attestation ? ATTESTATION_TTL_MS : this.#options.freshness().negativeTtlMs,
      collect: (options) => collectReferrers(subject, options),
      parse: (bytes) => {
        const manifests = manifestsIn(bytes)
        return manifests && { bytes, manifests }
      },
      stale: (known, failure) => this.#staleReferrers(repository, subject, known, failure),
    }
  }

  /**
   * The list, as long as it or any tag of the repository may be answered stale, with the tags that were cached since.
   * A cached "no such list" counts only where no tag is cached.
   */
  async #staleTags(
    repository: MirrorRef,
    known: Known<readonly string[]> | undefined,
    failure: UpstreamError,
  ): Promise<Listed<readonly string[]> | undefined> {
    const here = await this.#options.metadata.tags.held(repositoryKey(repository), MOST_HERE)
    const newest = Math.max(...here.map(({ checkedAt }) => checkedAt))
    const stale = known && this.#freshness.staleList(repository, known.answer, failure)
    if (stale !== undefined && here.length === 0) return { ...stale, value: known?.value }
    const usable =
      stale ??
      (here.length === 0 ? undefined : this.#freshness.staleList(repository, { checkedAt: newest }, failure))
    if (usable === undefined) return undefined
    if (known?.value === undefined) {
      const value = here.map(({ tag }) => tag)
      return { ...marked(repository.origin, failure, 'only tags that are here are listed'), value }
    }
    const { checkedAt } = known.answer
    const since = here.filter((it) => it.checkedAt > checkedAt).map(({ tag }) => tag)
    const value = since.length === 0 ? known.value : [...new Set([...known.value, ...since])].sort()
    return { ...(stale ?? marked(repository.origin, failure, 'listed long ago')), value }
  }

  /** For a cached manifest: it is served for as long as it is here, and so are its known referrers. */
  async #staleReferrers(
    repository: MirrorRef,
    subject: Digest,
    known: Known<Referrers> | undefined,
    failure: UpstreamError,
  ): Promise<Listed<Referrers> | undefined> {
    const { manifestStore, metadata } = this.#options
    const stale = known && this.#freshness.staleList(repository, known.answer, failure)
    if (stale !== undefined) return { ...stale, value: known?.value }
    if ((await manifestStore.record(repository, subject)) === undefined) return undefined
    if (known !== undefined) {
      return { ...marked(repository.origin, failure, 'listed long ago'), value: known.value }
    }
    const manifests = await metadata.manifests.referrers(repositoryKey(repository), subject)
    const warning = 'only referrers that are here are listed, there may be others'
    return { ...marked(repository.origin, failure, warning), value: { bytes: undefined, manifests } }
  }

  /** Answers from the list; hands upstream's page on where the query has its cursor, or the list is slow or large. */
  async #answer<T extends object, A>(
    asked: ListQuestion<T>,
    query: URLSearchParams,
    client: AbortSignal,
    from: {
      readonly handOn: (ofUpstream: URLSearchParams, limit: AbortSignal) => Promise<A | undefined>
      readonly fromHere: (listed: Listed<T>) => A | undefined | Promise<A | undefined>
    },
  ): Promise<A | undefined> {
    const { repository } = asked
    const handOn = (ofUpstream: URLSearchParams, limitMs: Milliseconds): Promise<A | undefined> =>
      withTimeLimit(repository.origin.upstream, limitMs, 'no answer in time', client, (limit) =>
        from.handOn(ofUpstream, limit),
      )
    const cursor = upstreamQueryOf(query)
    if (cursor !== undefined) {
      try {
        return await handOn(cursor, this.#options.freshness().budgetMs)
      } catch (error) {
        // Only upstream can read its cursor: no cached list can replace the page.
        throw await refusalOf(error, repository, this.#options.metadata.repositories)
      }
    }
    let found = await this.#lists.list(asked, client)
    if ('handOnMs' in found) {
      try {
        return await handOn(query, found.handOnMs)
      } catch (error) {
        found = await this.#lists.insteadOf(error, asked)
      }
    }
    return await from.fromHere(found)
  }
}
