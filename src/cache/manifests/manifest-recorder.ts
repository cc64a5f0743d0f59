/**
 * Records what upstream says of manifests and tags, in the background after the answer (write-behind).
 *
 * A failed write never fails an answer.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import { parseManifest } from '../../oci/manifest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { MetadataStore, TagRecord } from '../../storage/metadata/metadata.ts'
import { StorageError } from '../../storage/storage-error.ts'
import { tagQuestion } from '../../storage/metadata/upstream-answer-index.ts'
import { UpstreamError, type UpstreamManifest } from '../../upstream/upstream.ts'
import type { Manifest, ManifestStore } from './manifest-store.ts'
import { PendingTagMoves } from './pending-tag-moves.ts'
import type { AnswerCache } from '../lists/answer-cache.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'
import type { StorageHealth } from '../resilience/storage-health.ts'

export interface ManifestRecorderOptions {
  readonly manifestStore: ManifestStore
  readonly metadata: MetadataStore
  readonly answers: Pick<AnswerCache, 'put'>
  readonly health: StorageHealth
  readonly log: Logger
  readonly now: () => Milliseconds
}

export class ManifestRecorder {
  readonly moves = new PendingTagMoves()
  readonly #options: ManifestRecorderOptions

  constructor(options: ManifestRecorderOptions) {
    this.#options = options
  }

  /** @throws UpstreamError where it is no manifest */
  parse(repository: MirrorRef, { digest, bytes, contentType }: UpstreamManifest): Manifest {
    try {
      return { digest, bytes, content: parseManifest(bytes, contentType) }
    } catch (error) {
      const { key } = repository.origin.upstream
      throw new UpstreamError('broken', key, 'what it sent is not a manifest', { cause: error })
    }
  }

  async keep(repository: MirrorRef, manifest: Manifest, tag: Tag | undefined): Promise<void> {
    const { manifestStore, health } = this.#options
    if (health.backingOff) {
      health.skipped()
      return this.#putName(repository)
    }
    try {
      await manifestStore.keep(repository, manifest, tag)
      if (tag === undefined) await this.#arrived(repository, manifest.digest)
      else this.moves.forget(repository, tag)
    } catch (error) {
      // A database that takes no writes is no reason to spare the disk, and has been logged.
      if (error instanceof StorageError) return
      health.writeFailed('a manifest', error)
      await this.#putName(repository)
    }
  }

  /** Records that upstream has the name: else it might pass for one that is about to be pushed for the first time. */
  #putName(repository: MirrorRef): Promise<void> {
    return this.#remember((metadata, at) =>
      metadata.transaction((tx) => tx.putRepository(repositoryKey(repository), at)),
    )
  }

  putTag(repository: MirrorRef, record: TagRecord): Promise<void> {
    const key = repositoryKey(repository)
    this.moves.forget(repository, record.tag)
    return this.#remember((metadata, at) =>
      metadata.transaction((tx) => {
        tx.putRepository(key, at)
        tx.putTag(key, record)
      }),
    )
  }

  confirm(repository: MirrorRef, record: TagRecord): Promise<void> {
    this.moves.forget(repository, record.tag)
    return this.#remember((metadata, at) =>
      metadata.transaction((tx) => tx.confirmTag(repositoryKey(repository), record.tag, record.digest, at)),
    )
  }

  /** @param about the subject, if the tag is a referrers tag */
  async bury(repository: MirrorRef, tag: Tag, about: Digest | undefined): Promise<void> {
    this.moves.forget(repository, tag)
    const { answers, manifestStore, now } = this.#options
    const key = repositoryKey(repository)
    // Taken before the write: a slow disk does not make upstream's answer any newer.
    const at = now()
    await this.#remember((metadata) => metadata.transaction((tx) => tx.buryTag(key, tag, at)))
    // Names that a client makes up must not fill the index.
    if (await manifestStore.serves(repository))
      await answers.put(key, tagQuestion(tag), { subject: about }, at)
  }

  /** Records the tags that a HEAD told to have moved to that digest. */
  async #arrived(repository: MirrorRef, digest: Digest): Promise<void> {
    for (const told of this.moves.arrived(repository, digest)) await this.putTag(repository, told)
  }

  async #remember(write: (metadata: MetadataStore, at: Milliseconds) => Promise<void>): Promise<void> {
    const { metadata, log, now } = this.#options
    try {
      await write(metadata, now())
    } catch (error) {
      log.debug({ err: error }, 'what upstream said was not remembered')
    }
  }
}
