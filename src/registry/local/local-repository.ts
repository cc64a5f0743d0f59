/** Local repository: serves what was pushed here. No request for it, nor its name, ever goes to an upstream. */
import type { Logger } from 'pino'
import type {
  BlobAnswer,
  BlobHead,
  ManifestAnswer,
  ManifestHead,
  ReferrersAnswer,
  TagsAnswer,
} from '../../cache/answers.ts'
import { StoredSource } from '../../cache/blobs/stored-source.ts'
import type { Digest } from '../../oci/digest.ts'
import { parsePage } from '../../oci/pagination.ts'
import { isDigestReference, type Reference, type RepositoryName } from '../../oci/reference.ts'
import type { BlobReader } from '../../storage/blobs/blob-store.ts'
import {
  LOCAL,
  type EpochMs,
  type ManifestRecord,
  type MetadataStore,
  type MetadataTransaction,
  type RepositoryKey,
} from '../../storage/metadata/metadata.ts'
import { damaged, type PushedContent } from './pushed-content.ts'
import { referrersPage } from '../../oci/referrers.ts'
import type { Repository } from '../repository.ts'

/** Size of a page without `n`. */
const MOST_TAGS = 10_000

interface LocalOptions {
  readonly bytes: PushedContent
  readonly metadata: MetadataStore
  /** Interval per blob of recording that a HEAD was answered "here": it bounds the writes. */
  readonly touchEveryMs: number
  readonly log: Logger
  readonly now: () => EpochMs
}

export class LocalRepository implements Repository {
  readonly kind = 'local'
  readonly registry = LOCAL
  readonly #options: LocalOptions
  readonly #bytes: PushedContent
  readonly #metadata: MetadataStore
  readonly #key: RepositoryKey

  constructor(options: LocalOptions, name: RepositoryName) {
    this.#options = options
    this.#bytes = options.bytes
    this.#metadata = options.metadata
    this.#key = { registry: LOCAL, name }
  }

  /**
   * Damaged content is absent to a HEAD: dockerd, containerd and skopeo send one before they push, upload what is
   * absent, and give up at any other answer. A client that pulls gets the error from the GET.
   */
  async headManifest(reference: Reference): Promise<ManifestHead | undefined> {
    const record = await this.#resolve(reference)
    if (record === undefined || (await this.#bytes.manifest(record.digest)) === undefined) return undefined
    // A pushing client that finds a digest here skips its upload, and may reference it in an index hours later.
    if (isDigestReference(reference) && !(await this.#touchManifest(reference))) return undefined
    return { ...record, cache: 'local' }
  }

  async manifest(reference: Reference): Promise<ManifestAnswer | undefined> {
    let missed: Digest | undefined
    for (;;) {
      const record = await this.#resolve(reference)
      if (record === undefined) return undefined
      const bytes = await this.#bytes.manifest(record.digest)
      if (bytes !== undefined) return { ...record, bytes, cache: 'local' }
      // Another try: it may just have been deleted, or pushed again.
      if (missed === record.digest) throw damaged(missed)
      missed = record.digest
    }
  }

  async holds(digest: Digest): Promise<boolean> {
    const linked = await this.#metadata.blobs.linked(this.#key, digest)
    return linked && (await this.#bytes.stat(digest)) !== undefined
  }

  /** Damaged content is absent, as for {@link headManifest}. */
  async headBlob(digest: Digest): Promise<BlobHead | undefined> {
    const linkedAt = await this.#metadata.blobs.linkedAt(this.#key, digest)
    if (linkedAt === undefined || !(await this.#touchBlob(digest, linkedAt))) return undefined
    const blob = await this.#bytes.stat(digest)
    return blob === undefined ? undefined : { ...blob, cache: 'local' }
  }

  #touchBlob(digest: Digest, linkedAt: EpochMs): Promise<boolean> {
    return this.#touch(
      linkedAt,
      (tx) => tx.touchBlob(this.#key, digest, this.#options.now()),
      () => this.#metadata.blobs.linked(this.#key, digest),
    )
  }

  async #touchManifest(digest: Digest): Promise<boolean> {
    const held = await this.#metadata.manifests.get(this.#key, digest)
    if (held === undefined) return false
    return this.#touch(
      held.storedAt,
      (tx) => tx.touchManifest(this.#key, digest, this.#options.now()),
      async () => (await this.#metadata.manifests.get(this.#key, digest)) !== undefined,
    )
  }

  /**
   * Renews the grace period before the client learns that the content is here, so that it is not collected meanwhile.
   *
   * @returns false when the collector was faster
   */
  async #touch(
    last: EpochMs,
    touch: (tx: MetadataTransaction) => void,
    isStillHere: () => Promise<boolean>,
  ): Promise<boolean> {
    const { touchEveryMs, log, now } = this.#options
    if (now() - last < touchEveryMs) return true
    try {
      await this.#metadata.transaction(touch)
      return await isStillHere()
    } catch (error) {
      // A pull must not fail because the database takes no writes.
      log.debug({ err: error }, 'a look was not remembered')
      return true
    }
  }

  async blob(digest: Digest): Promise<BlobAnswer | undefined> {
    const reader = await this.#open(digest)
    if (reader === undefined) return undefined
    return {
      digest,
      size: reader.size,
      cache: 'local',
      unverified: false,
      open: (range) => Promise.resolve(new StoredSource(reader, range)),
      [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
    }
  }

  async #open(digest: Digest): Promise<BlobReader | undefined> {
    for (let missed = false; ; missed = true) {
      if (!(await this.#metadata.blobs.linked(this.#key, digest))) return undefined
      const reader = await this.#bytes.open(digest)
      if (reader !== undefined) return reader
      // Another try: it may just have been deleted, or pushed again.
      if (missed) throw damaged(digest)
    }
  }

  async tags(query: URLSearchParams): Promise<TagsAnswer | undefined> {
    const known = await this.#metadata.repositories.get(this.#key)
    if (known === undefined || known.deletedAt !== undefined) return undefined
    const { last, n: limit = MOST_TAGS } = parsePage(query)
    if (limit === 0) return { tags: [], next: undefined, cache: 'local' }
    // One more than the page holds shows whether there is another page.
    const tags = await this.#metadata.tags.list(this.#key, {
      limit: limit + 1,
      ...(last === undefined ? {} : { last }),
    })
    const page = tags.slice(0, limit)
    const end = page.at(-1)
    const next =
      tags.length > limit && end !== undefined
        ? new URLSearchParams({ n: String(limit), last: end })
        : undefined
    return { tags: page, next, cache: 'local' }
  }

  async referrers(subject: Digest, query: URLSearchParams): Promise<ReferrersAnswer> {
    const all = await this.#metadata.manifests.referrers(this.#key, subject)
    return { ...referrersPage(all, query), cache: 'local' }
  }

  async #resolve(reference: Reference): Promise<ManifestRecord | undefined> {
    if (isDigestReference(reference)) return this.#metadata.manifests.get(this.#key, reference)
    const tag = await this.#metadata.tags.get(this.#key, reference)
    if (tag === undefined || tag.deletedAt !== undefined) return undefined
    return this.#metadata.manifests.get(this.#key, tag.digest)
  }
}
