/**
 * Access control of mirrored blobs, by repository: bytes are shared, access is not.
 *
 * A digest alone opens nothing. A repository reads what upstream gave under its name, and what one of its manifests
 * references and this upstream delivered; for anything else upstream is asked about that very name, and its yes is
 * remembered. docs/architecture.md "Blobs are shared, access is not".
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import { MAX_MANIFEST_BYTES, type Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import type { Fill } from './fill.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'
import { refusalOf } from '../resilience/client-errors.ts'
import { withTimeLimit } from '../time-limit.ts'
import { SingleFlight } from '../../base/single-flight.ts'

interface BlobAccessOptions {
  readonly metadata: MetadataStore
  readonly named: (repository: MirrorRef, digest: Digest) => Promise<Descriptor | undefined>
  readonly headerBudgetMs: Milliseconds
  readonly log: Logger
  readonly now: () => Milliseconds
}

/** Undefined: upstream has no such blob under that name. */
type Found = { readonly size: Bytes | undefined } | undefined

export class BlobAccess {
  readonly #options: BlobAccessOptions
  readonly #asks = new SingleFlight<Found>()

  constructor(options: BlobAccessOptions) {
    this.#options = options
  }

  /** Whether the repository may read a blob that is here; upstream is asked where the index does not know. */
  async mayRead(
    repository: MirrorRef,
    digest: Digest,
    named: boolean,
    size: Bytes,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (await this.isKnown(repository, digest, named)) return true
    return (await this.ask(repository, digest, signal, size)) !== undefined
  }

  async isKnown(repository: MirrorRef, digest: Digest, named: boolean): Promise<boolean> {
    const { blobs } = this.#options.metadata
    const key = repositoryKey(repository)
    return (await blobs.linked(key, digest)) || (named && (await blobs.deliveredBy(key.registry, digest)))
  }

  /** A fill proves that this upstream delivers: a reference by the repository's manifest then suffices. */
  async mayJoin(fill: Fill, repository: MirrorRef, digest: Digest, signal: AbortSignal): Promise<boolean> {
    if (fill.names.has(repository.name)) return true
    const allowed =
      (await this.#options.named(repository, digest)) !== undefined ||
      (await this.#options.metadata.blobs.linked(repositoryKey(repository), digest)) ||
      (await this.ask(repository, digest, signal)) !== undefined
    if (!allowed) return false
    fill.names.add(repository.name)
    // Its adoption may have been recorded already, without this name.
    if (fill.phase.is === 'verified') await this.#grant(repository, digest)
    return true
  }

  /**
   * Records that upstream gives that blob under this name; else it would be asked again. A blob that does not stay,
   * or has gone meanwhile, is not recorded.
   *
   * @param size of its file, which a crash may have kept from the index
   */
  async #grant(repository: MirrorRef, digest: Digest, size?: Bytes): Promise<void> {
    const { metadata, log, now } = this.#options
    const key = repositoryKey(repository)
    try {
      const stray = (await metadata.blobs.size(digest)) === undefined ? size : undefined
      await metadata.transaction((tx) => {
        tx.putRepository(key, now())
        if (stray !== undefined) tx.recordBlob(digest, stray, now())
        tx.linkKnownBlob(key, digest, now())
      })
    } catch (error) {
      log.debug({ err: error, digest }, 'a link was not remembered')
    }
  }

  /** Registries give manifests out as blobs, too: an unreferenced one as small as a manifest may be one. */
  async #isManifest(
    repository: MirrorRef,
    digest: Digest,
    { size = 0 }: NonNullable<Found>,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (size > MAX_MANIFEST_BYTES || (await this.#options.named(repository, digest)) !== undefined)
      return false
    const { upstream } = repository.origin
    try {
      return (await upstream.headManifest(repository.name, digest, signal)).result === 'present'
    } catch (error) {
      // Upstream has the blob, perhaps by a fallback: that it cannot say more is no reason to withhold it.
      if (error instanceof UpstreamError) return false
      throw error
    }
  }

  /**
   * Asks upstream about that name, once for all clients that want it (single-flight).
   *
   * @param here size of the blob that is here, when a yes is to be recorded
   * @throws OciError
   */
  async ask(repository: MirrorRef, digest: Digest, client: AbortSignal, here?: Bytes): Promise<Found> {
    const { origin, name } = repository
    const { upstream, state } = origin
    const message = 'no answer to HEAD within the header budget'
    const { headerBudgetMs } = this.#options
    try {
      const { answer } = await this.#asks.join(`${upstream.key} ${name} ${digest}`, client, () =>
        withTimeLimit(upstream, headerBudgetMs, message, undefined, async (budget) => {
          const answer = await upstream.headBlob(name, digest, budget)
          if (answer === undefined || (await this.#isManifest(repository, digest, answer, budget))) {
            return { answer: undefined }
          }
          if (here === undefined) return { answer }
          return { answer, after: this.#grant(repository, digest, here) }
        }),
      )
      return answer
    } catch (error) {
      if (error instanceof UpstreamError) state.failed(repository.name, error)
      throw await refusalOf(error, repository, this.#options.metadata.repositories)
    }
  }
}
