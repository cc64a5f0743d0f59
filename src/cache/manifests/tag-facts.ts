/**
 * The facts that decide what a pull of a tag does: the manifest cache plans by them, and `explain` prints them.
 *
 * They are gathered without a request upstream. docs/architecture.md "Freshness".
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import type { Tag } from '../../oci/reference.ts'
import type { MetadataStore, TagRecord } from '../../storage/metadata/metadata.ts'
import { tagQuestion } from '../../storage/metadata/upstream-answer-index.ts'
import type { UpstreamError } from '../../upstream/upstream.ts'
import type { AnswerCache } from '../lists/answer-cache.ts'
import { subjectHere } from '../lists/referrers-tag.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'
import { ATTESTATION_TTL_MS, isAttestation } from '../prefetch/attestation.ts'
import { marked, type Freshness } from './freshness.ts'
import type { ManifestFetcher } from './manifest-fetcher.ts'
import type { ManifestStore } from './manifest-store.ts'
import type { KnownFacts, PullFacts } from './pull-plan.ts'

interface Absence {
  /** When upstream last said that there is none; undefined: it was never asked. */
  readonly checkedAt: Milliseconds | undefined
  /** The cached manifest whose referrers tag it is. */
  readonly subject: Digest | undefined
}

interface KnownTag extends KnownFacts {
  readonly record?: TagRecord
  readonly absence?: Absence | undefined
}

const ABSENT: KnownTag = { absent: 'manifest', fresh: false }
const UNKNOWN_REPOSITORY: KnownTag = { absent: 'repository', fresh: false }

interface TagFactsOptions {
  readonly manifestStore: Pick<ManifestStore, 'heldWith' | 'namedManifest'>
  readonly metadata: Pick<MetadataStore, 'tags'>
  readonly answers: Pick<AnswerCache, 'get'>
}

export class TagFacts {
  readonly #options: TagFactsOptions
  readonly #freshness: Freshness
  readonly #fetcher: Pick<ManifestFetcher, 'toldMove'>

  constructor(options: TagFactsOptions, freshness: Freshness, fetcher: Pick<ManifestFetcher, 'toldMove'>) {
    this.#options = options
    this.#freshness = freshness
    this.#fetcher = fetcher
  }

  /** @param headCounts a HEAD 404 suffices as an absence */
  async known(repository: MirrorRef, tag: Tag, headCounts: boolean): Promise<KnownTag> {
    const { origin, name } = repository
    const { absent } = origin.state
    if (absent.has('manifest', name, tag)) return ABSENT
    if (absent.has('repository', name)) return UNKNOWN_REPOSITORY
    const record = await this.#options.metadata.tags.get(repositoryKey(repository), tag)
    if (record !== undefined && record.deletedAt === undefined) {
      return { absent: undefined, fresh: this.#freshness.isFresh(repository, record), record }
    }
    if (headCounts && absent.has('head', name, tag)) return ABSENT
    const absence = await this.#absence(repository, tag, record?.deletedAt)
    return absence === 'believed' ? ABSENT : { absent: undefined, fresh: false, absence }
  }

  /** @param deletedAt when upstream said that the tag is gone */
  async #absence(
    repository: MirrorRef,
    tag: Tag,
    deletedAt: Milliseconds | undefined,
  ): Promise<Absence | 'believed' | undefined> {
    const { answers, manifestStore } = this.#options
    const answer = await answers.get(repositoryKey(repository), tagQuestion(tag))
    const checkedAt = answer?.checkedAt ?? deletedAt
    const subject = await subjectHere(manifestStore, repository, tag)
    if (checkedAt === undefined) return subject && { checkedAt, subject }
    const attestation =
      subject !== undefined && isAttestation(await manifestStore.namedManifest(repository, subject))
    const ttlMs = attestation ? ATTESTATION_TTL_MS : this.#freshness.settings.negativeTtlMs
    return this.#freshness.isYoung({ checkedAt }, ttlMs) ? 'believed' : { checkedAt, subject }
  }

  facts(
    repository: MirrorRef,
    tag: Tag,
    { record, absence }: KnownTag,
    held: boolean,
    failing: Pick<UpstreamError, 'failure' | 'offline'> | undefined,
  ): PullFacts {
    const { origin, name } = repository
    const told = this.#fetcher.toldMove(repository, tag)
    const moved = told !== undefined && this.#freshness.isFresh(repository, told)
    return {
      ...{ absent: undefined, fresh: false, moved },
      ageMs: record === undefined ? this.#ageOf(absence) : held ? this.#freshness.age(record) : undefined,
      kept: held && origin.state.absent.has('kept tag', name, tag),
      spared: moved && origin.upstream.quotaBelow(origin.reserve) !== undefined,
      staleForMs: this.#freshness.staleForMs(origin),
      failingForMs: failing && this.#freshness.staleForMs(origin, failing),
    }
  }

  #ageOf(absence: Absence | undefined): Milliseconds | undefined {
    // Clients ask for a referrers tag with its subject, which is served for as long as it is here: so is this.
    if (absence?.subject !== undefined) return 0
    return absence?.checkedAt === undefined
      ? undefined
      : this.#freshness.age({ checkedAt: absence.checkedAt })
  }

  /** @throws OciError MANIFEST_UNKNOWN, marked stale, where upstream's absence still counts */
  assertNotAbsent(repository: MirrorRef, tag: Tag, absence: Absence, failure: UpstreamError): void {
    const { checkedAt, subject } = absence
    const stale =
      checkedAt === undefined ? undefined : this.#freshness.stale(repository, { checkedAt }, failure)
    const instead = subject && marked(repository.origin, failure, 'no list of referrers is here')
    const warning = (stale ?? instead)?.warning
    if (warning === undefined) return
    const what = { name: repository.name, reference: tag }
    throw new OciError('MANIFEST_UNKNOWN', what, { staleWarning: warning, cause: failure })
  }

  /**
   * The facts by which a GET of that tag is planned, for `explain`.
   *
   * @param held the manifest that the tag named last is here
   * @param failing why upstream cannot be asked
   */
  async explain(
    repository: MirrorRef,
    tag: Tag,
    held: boolean,
    failing: Pick<UpstreamError, 'failure' | 'offline'> | undefined,
  ): Promise<PullFacts> {
    const known = await this.known(repository, tag, false)
    return { ...this.facts(repository, tag, known, held, failing), ...known }
  }
}
