/**
 * Prefetch of the referrers of an image: its attestation manifests, signatures and bills of materials.
 *
 * Docker 29 and later fetches the attestation manifest of the platform it pulls and asks for its referrers; a client
 * that verifies signatures asks for those of the image. Both must be answered with the line cut, also where the
 * client that filled the cache never asked. It works in the background, bounded in number and bytes, and within the
 * quota of pulls: what is left out is fetched when a client asks.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { isNonDistributable, type Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import type { ManifestContent } from '../../oci/manifest.ts'
import type { Reference } from '../../oci/reference.ts'
import { referrersTag } from '../../oci/referrers.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import { referrersQuestion } from '../../storage/metadata/upstream-answer-index.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { AnswerCache } from '../lists/answer-cache.ts'
import { subjectOfAttestation } from './attestation.ts'
import type { BlobCache } from '../blobs/blob-cache.ts'
import type { UpstreamLists } from '../lists/upstream-lists.ts'
import type { ManifestCache } from '../manifests/manifest-cache.ts'
import type { Manifest } from '../manifests/manifest-store.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'

/** The referrers of a hot image are not looked at again so soon. */
const LOOK_AGAIN_MS: Milliseconds = 600_000

/** Upstream is asked again after so long: an image may be signed after it was first pulled. */
const ASK_AGAIN_MS: Milliseconds = 86_400_000

/** Real indexes have a few dozen platforms. */
const MOST_PLATFORMS = 256
/** The most manifests that are fetched for one subject, and the most bytes with them. */
const MOST_REFERRERS = 16
const MOST_BYTES: Bytes = 32 * 1024 * 1024
/** The most manifests where upstream counts pulls; the last half of the quota is left to clients. */
const MOST_COUNTED = 4
const SHARE_FOR_PEOPLE = 1 / 2

const TASKS_AT_ONCE = 2
/** Further tasks are dropped. */
const MOST_WAITING = 500

/** Weight of the remembered indexes and looks; each entry is two or three digests and a name. */
const PLATFORMS_WEIGHT: Bytes = 8 * 1024 * 1024
const DIGEST_WEIGHT: Bytes = 128
const LOOKED_WEIGHT: Bytes = 4 * 1024 * 1024

export type PrefetchMode = 'layers' | 'config' | 'off'

interface Platform {
  readonly index: Digest
  readonly attestations: readonly Digest[]
}

interface ReferrersPrefetchOptions {
  readonly metadata: Pick<MetadataStore, 'garbage' | 'manifests'>
  readonly manifests: Pick<ManifestCache, 'get'>
  readonly lists: Pick<UpstreamLists, 'allReferrers' | 'storedReferrers'>
  readonly blobs: Pick<BlobCache, 'ahead'>
  readonly answers: Pick<AnswerCache, 'get'>
  readonly mode: () => PrefetchMode
  readonly metrics: Pick<Metrics, 'prefetchesInFlight'>
  readonly now: () => Milliseconds
  readonly log: Logger
}

type Task = () => Promise<void>

export class ReferrersPrefetch {
  readonly #options: ReferrersPrefetchOptions
  readonly #closing = new AbortController()
  readonly #platforms = new LRUCache<string, Platform>({
    maxSize: PLATFORMS_WEIGHT,
    sizeCalculation: ({ attestations }, key) => key.length + DIGEST_WEIGHT * (1 + attestations.length),
  })
  /** Indexes and subjects that were looked at a short while ago. */
  readonly #looked = new LRUCache<string, true>({
    maxSize: LOOKED_WEIGHT,
    sizeCalculation: (_looked, key) => DIGEST_WEIGHT + key.length,
    ttl: LOOK_AGAIN_MS,
  })
  readonly #waiting: Task[] = []
  readonly #running = new Set<Promise<void>>()

  constructor(options: ReferrersPrefetchOptions) {
    this.#options = options
  }

  /** A client got this manifest by GET. */
  manifestServed(repository: MirrorRef, { digest, content }: Manifest): void {
    if (this.#options.mode() === 'off') return
    if (content.kind === 'index') this.#remember(repository, digest, content)
    else this.#bringAttestations(repository, digest)
  }

  /** A client pulls that image: its referrers follow. */
  imageFetched(repository: MirrorRef, image: Digest): void {
    if (this.#options.mode() !== 'layers') return
    const platform = this.#platforms.get(keyOf(repository, image))
    for (const subject of platform === undefined ? [image] : [image, platform.index]) {
      this.#once(repository, `referrers ${subject}`, () => this.#bringReferrers(repository, subject))
    }
  }

  /** Starts nothing more; resolves when nothing runs. */
  async close(): Promise<void> {
    this.#closing.abort(new OciError('UNAVAILABLE', undefined, { message: 'shutting down' }))
    this.#options.metrics.prefetchesInFlight.dec(this.#waiting.length)
    this.#waiting.length = 0
    await Promise.all(this.#running)
  }

  #remember(repository: MirrorRef, index: Digest, { manifests }: ManifestContent): void {
    const looked = keyOf(repository, index)
    if (this.#looked.has(looked)) return
    this.#looked.set(looked, true)
    const some = manifests.slice(0, MOST_PLATFORMS)
    const attestations = Map.groupBy(
      some.filter((it) => subjectOfAttestation(it) !== undefined),
      subjectOfAttestation,
    )
    for (const { digest } of some) {
      const about = attestations.get(digest) ?? []
      this.#platforms.set(keyOf(repository, digest), {
        index,
        attestations: about.map((it) => it.digest),
      })
    }
  }

  #bringAttestations(repository: MirrorRef, image: Digest): void {
    const platform = this.#platforms.get(keyOf(repository, image))
    if (platform === undefined) {
      this.#once(repository, `platform ${image}`, () => this.#recall(repository, image))
      return
    }
    for (const attestation of platform.attestations) {
      this.#once(repository, `attestation ${attestation}`, () =>
        this.#bringAttestation(repository, attestation),
      )
    }
  }

  /** Reads the index of a platform that was served before a restart, or long ago. */
  async #recall(repository: MirrorRef, image: Digest): Promise<void> {
    const { garbage, manifests } = this.#options.metadata
    const [index] = await garbage.referencedBy(image, {
      repository: repositoryKey(repository),
      role: 'manifest',
    })
    if (index === undefined) return
    const children = await manifests.references(index)
    const about = children.filter((it) => subjectOfAttestation(it) === image).map(({ digest }) => digest)
    this.#platforms.set(keyOf(repository, image), { index, attestations: about })
    this.#bringAttestations(repository, image)
  }

  #once(repository: MirrorRef, what: string, task: Task): void {
    const key = keyOf(repository, what)
    if (this.#looked.has(key) || this.#waiting.length >= MOST_WAITING || this.#closing.signal.aborted) return
    this.#looked.set(key, true)
    this.#options.metrics.prefetchesInFlight.inc()
    this.#waiting.push(async () => {
      try {
        await task()
      } catch (error) {
        // It was not here, or cannot be had now: a later pull tries again.
        this.#options.log.debug({ err: error, what }, 'fetch-ahead of referrers ended early')
      } finally {
        this.#options.metrics.prefetchesInFlight.dec()
      }
    })
    this.#next()
  }

  #next(): void {
    while (this.#running.size < TASKS_AT_ONCE) {
      const task = this.#waiting.shift()
      if (task === undefined) return
      const run: Promise<void> = task().finally(() => {
        this.#running.delete(run)
        this.#next()
      })
      this.#running.add(run)
    }
  }

  /** Fetches the manifest with its blobs and its referrers: all that Docker asks for. */
  async #bringAttestation(repository: MirrorRef, attestation: Digest): Promise<void> {
    const limit = { bytes: MOST_BYTES }
    await this.#bringManifest(repository, attestation, limit)
    await this.#bringReferrers(repository, attestation, limit)
  }

  /** Asks upstream once a day; fetches the listed manifests that are missing: an earlier run may have been cut off. */
  async #bringReferrers(
    repository: MirrorRef,
    subject: Digest,
    limit = { bytes: MOST_BYTES },
  ): Promise<void> {
    const { answers, lists: listings, now } = this.#options
    const { signal } = this.#closing
    const known = await answers.get(repositoryKey(repository), referrersQuestion(subject))
    const asksAgain = known === undefined || now() - known.checkedAt > ASK_AGAIN_MS
    const referrers = asksAgain
      ? ((await listings.allReferrers(repository, subject, signal)) ??
        (await this.#fallback(repository, subject)))
      : await listings.storedReferrers(repository, subject)
    const most = isCounted(repository) ? MOST_COUNTED : MOST_REFERRERS
    for (const { digest } of referrers.slice(0, most)) {
      if (isForPeople(repository) || !(await this.#bringManifest(repository, digest, limit))) return
    }
  }

  /** Without a referrers API upstream: the manifests that the referrers tag lists. */
  async #fallback(repository: MirrorRef, subject: Digest): Promise<readonly Pick<Descriptor, 'digest'>[]> {
    if (isForPeople(repository)) return []
    const found = await this.#get(repository, referrersTag(subject))
    return found?.content.manifests ?? []
  }

  /** @returns false when no more may be fetched */
  async #bringManifest(repository: MirrorRef, digest: Digest, limit: { bytes: Bytes }): Promise<boolean> {
    const found = await this.#get(repository, digest)
    if (found === undefined) return false
    const { bytes, content } = found
    limit.bytes -= bytes.length
    if (this.#options.mode() !== 'layers') return true
    for (const blob of [content.config, ...content.layers]) {
      if (blob === undefined || isNonDistributable(blob)) continue
      limit.bytes -= blob.size ?? 0
      if (limit.bytes < 0) return false
      await this.#options.blobs.ahead(repository, blob)
    }
    return true
  }

  /** Undefined also where no pull is to be spent on it. */
  async #get(repository: MirrorRef, reference: Reference): Promise<Manifest | undefined> {
    const { upstream, reserve } = repository.origin
    if (upstream.quotaBelow(reserve) !== undefined) return undefined
    return (await this.#options.manifests.get(repository, reference, this.#closing.signal))?.manifest
  }
}

function keyOf({ origin, name }: MirrorRef, what: string): string {
  return `${origin.upstream.key} ${name} ${what}`
}

/** Each manifest costs one of a limited number of pulls. */
function isCounted({ origin }: MirrorRef): boolean {
  return origin.upstream.status().accounts.some(({ pulls }) => pulls !== undefined)
}

/** The rest of the quota is left to what clients ask for. */
function isForPeople({ origin }: MirrorRef): boolean {
  const { accounts } = origin.upstream.status()
  return accounts.some(
    ({ pulls }) =>
      pulls?.limit !== undefined &&
      pulls.remaining <= Math.max(pulls.limit * SHARE_FOR_PEOPLE, origin.reserve),
  )
}
