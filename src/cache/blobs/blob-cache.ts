/**
 * Blob cache: answers a digest with bytes from the disk, from a running fill, or from upstream.
 *
 * There is one file per digest, however many repositories hold it; access is not shared. A mirrored repository reads
 * what upstream gave under its name, and what one of its manifests references and this upstream delivered; for
 * anything else upstream is asked first.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import { isNonDistributable, MAX_MANIFEST_BYTES, type Descriptor } from '../../oci/descriptor.ts'
import { OciError } from '../../oci/errors.ts'
import type { BlobInfo, BlobReader, BlobStore } from '../../storage/blobs/blob-store.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { Upstream } from '../../upstream/upstream.ts'
import type { BlobAnswer, BlobHead } from '../answers.ts'
import { BlobAccess } from './blob-access.ts'
import { Fill, type FillContext, type FillProgress } from './fill.ts'
import { FillAnswer } from './fill-answer.ts'
import { flightKey, type MirrorRef, type Origin } from '../origin.ts'
import { corruptRefusal } from '../resilience/client-errors.ts'
import { isManifestIn } from './disguised-manifest.ts'
import { StoredSource } from './stored-source.ts'
import { abandonable } from '../../base/condition.ts'

/** The head of a cold blob must be out by then: dockerd and podman wait for ever, containerd 30 s. */
const HEADER_BUDGET_MS: Milliseconds = 15_000

interface BlobCacheOptions extends Omit<FillContext, 'onAdopted'> {
  readonly store: BlobStore
  readonly metadata: MetadataStore
  /** The descriptor by which a manifest of that repository references that config or layer. */
  readonly named: (repository: MirrorRef, digest: Digest) => Promise<Descriptor | undefined>
  /** Whether the cache knows a manifest of that repository by that digest. */
  readonly isManifest: (repository: MirrorRef, digest: Digest) => Promise<boolean>
  /** Has a blob of the wrong size verified, and deleted if it is corrupt. */
  readonly suspect: (digest: Digest) => void
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => Milliseconds
  readonly headerBudgetMs?: Milliseconds
}

export class BlobCache {
  readonly #options: BlobCacheOptions
  readonly #context: FillContext
  /** The fills that may be joined, by upstream and digest. */
  readonly #running = new Map<string, Fill>()
  readonly #fills = new Set<Fill>()
  readonly #access: BlobAccess
  readonly #answers: FillAnswer
  #closed = false

  get busy(): boolean {
    return this.#fills.size > 0
  }

  constructor(options: BlobCacheOptions) {
    this.#options = options
    const { metadata, headerBudgetMs = HEADER_BUDGET_MS } = options
    this.#context = { ...options, onAdopted: (fill, blob) => this.#link(fill, blob) }
    this.#access = new BlobAccess({ ...options, headerBudgetMs })
    this.#answers = new FillAnswer({
      ...{ access: this.#access, repositories: metadata.repositories },
      ...{ headerBudgetMs, context: this.#context },
    })
  }

  /**
   * `undefined` when upstream has none, and for a manifest, which registries give out as a blob, too: a client that
   * takes it for one keeps a wrong type (containerd for good).
   *
   * @throws OciError when upstream is needed and cannot
   */
  async get(repository: MirrorRef, digest: Digest, signal: AbortSignal): Promise<BlobAnswer | undefined> {
    const descriptor = await this.#named(repository, digest)
    if (descriptor === undefined && (await this.#options.isManifest(repository, digest))) return undefined
    const answer = await this.#get(repository, digest, descriptor, signal)
    if (answer === undefined || descriptor !== undefined || answer.cache === 'bypass') return answer
    try {
      if (!(await isManifestIn(answer, signal))) return answer
    } catch (error) {
      await answer[Symbol.asyncDispose]()
      throw error
    }
    await answer[Symbol.asyncDispose]()
    return undefined
  }

  async #get(
    repository: MirrorRef,
    digest: Digest,
    descriptor: Descriptor | undefined,
    signal: AbortSignal,
  ): Promise<BlobAnswer | undefined> {
    const key = flightKey(repository.origin, digest)
    for (;;) {
      const running = this.#running.get(key)
      if (running !== undefined) {
        if (running.stopping) {
          await abandonable(running.settled, signal)
          continue
        }
        if (!(await this.#access.mayJoin(running, repository, digest, signal))) return undefined
        // The fill may have ended meanwhile; then the disk has the blob, or a new fill starts.
        if (running !== this.#running.get(key)) continue
        if (running.name === repository.name) return this.#answers.follow(running, 'join', repository, signal)
        const size = descriptor?.size
        const delivers = await this.#answers.delivers(running, size, signal)
        if (running !== this.#running.get(key)) continue
        if (delivers) return this.#answers.follow(running, 'join', repository, signal)
        // Upstream has not delivered it under the other name so far: that is no answer for this one.
        return this.#answers.follow(this.#start(repository, digest, size), 'miss', repository, signal)
      }
      const reader = await this.#stored(repository, digest, descriptor, signal)
      if (reader !== undefined) return hit(digest, reader)
      const { state, upstream } = repository.origin
      const silence = state.corruptFor(digest)
      if (silence !== undefined) throw corruptRefusal(upstream.key, silence)
      // Single-flight: no `await` may come between this look and the start.
      if (this.#running.has(key)) continue
      return this.#answers.follow(
        this.#start(repository, digest, descriptor?.size),
        'miss',
        repository,
        signal,
      )
    }
  }

  progress(origin: Origin, digest: Digest): FillProgress | undefined {
    return this.#running.get(flightKey(origin, digest))?.progress
  }

  /** True when it is here and that repository may read it without a request upstream. */
  async holds(repository: MirrorRef, digest: Digest): Promise<boolean> {
    const blob = await this.#options.store.stat(digest)
    if (blob === undefined) return false
    const descriptor = await this.#named(repository, digest)
    const named =
      descriptor !== undefined &&
      (descriptor.size === blob.size || (await this.#options.metadata.blobs.size(digest)) === blob.size)
    return this.#access.isKnown(repository, digest, named)
  }

  /**
   * Whether a client may ask for it because of what was pulled under that name: a manifest that references it, or
   * itself. While the disk takes nothing, the index is behind, so the answer is yes.
   */
  async mayBePulled(repository: MirrorRef, digest: Digest): Promise<boolean> {
    if (this.#options.health.failing || (await this.#named(repository, digest)) !== undefined) return true
    return this.#access.isKnown(repository, digest, false)
  }

  async head(repository: MirrorRef, digest: Digest, signal: AbortSignal): Promise<BlobHead | undefined> {
    const descriptor = await this.#named(repository, digest)
    if (descriptor === undefined && (await this.#options.isManifest(repository, digest))) return undefined
    const running = this.#running.get(flightKey(repository.origin, digest))
    if (running?.size !== undefined && (await this.#access.mayJoin(running, repository, digest, signal))) {
      // An unreferenced blob as small as a manifest may be one: a HEAD upstream tells before its bytes do.
      const isUncertain = descriptor === undefined && running.size <= MAX_MANIFEST_BYTES
      if (isUncertain && (await this.#access.ask(repository, digest, signal)) === undefined) return undefined
      return { digest, size: running.size, cache: 'join' }
    }
    await using reader = await this.#stored(repository, digest, descriptor, signal)
    if (reader !== undefined) {
      if (descriptor === undefined && (await isManifestIn(hit(digest, reader), signal))) return undefined
      return { digest, size: reader.size, cache: 'hit' }
    }
    const size = descriptor?.size
    const isForeign = descriptor !== undefined && isNonDistributable(descriptor)
    // A foreign layer is in the manifest and in no registry's store: only upstream knows. A blob that was lost here
    // is not promised either: only upstream knows whether a GET would get it.
    if (size !== undefined && !isForeign && !(await this.#isLost(digest))) {
      return { digest, size, cache: 'miss' }
    }
    const found = await this.#access.ask(repository, digest, signal)
    if (found === undefined) return undefined
    if (found.size === undefined) {
      throw new OciError('UNAVAILABLE', undefined, {
        message: 'upstream does not say how large that blob is',
      })
    }
    return { digest, size: found.size, cache: 'miss' }
  }

  /** Starts to fetch what clients will ask for soon, behind everything that they ask for now. */
  async ahead(repository: MirrorRef, descriptor: Pick<Descriptor, 'digest' | 'size'>): Promise<void> {
    const { origin } = repository
    if (origin.state.failing(repository.name) !== undefined || this.#options.health.backingOff) return
    if (origin.state.corruptFor(descriptor.digest) !== undefined) return
    if ((await this.#options.store.stat(descriptor.digest)) !== undefined) return
    if (this.#closed || this.#running.has(flightKey(repository.origin, descriptor.digest))) return
    this.#start(repository, descriptor.digest, descriptor.size)
  }

  /**
   * Resolves when the blob is on the disk, not while it is only on its way.
   *
   * @returns its size; undefined when upstream has none
   * @throws OciError when it cannot be had, or cannot be kept
   */
  async bring(repository: MirrorRef, digest: Digest, signal: AbortSignal): Promise<Bytes | undefined> {
    let fill: Fill | undefined
    {
      await using answer = await this.get(repository, digest, signal)
      if (answer === undefined) return undefined
      fill = this.#running.get(flightKey(repository.origin, digest))
      while (fill?.phase.is === 'running' && !fill.transient) await fill.changed(signal)
    }
    // A transient fill settles when its last follower has gone, and this is none.
    if (fill?.transient === false) await abandonable(fill.settled, signal)
    if (fill?.phase.is === 'failed') throw fill.phase.error
    const here = await this.#options.store.stat(digest)
    if (here !== undefined) return here.size
    const message = fill?.transient === true ? 'it is larger than the budget' : 'the disk would not keep it'
    throw new OciError('UNAVAILABLE', { digest }, { message })
  }

  /** Stops the fills from removed upstreams that no client follows; `current` are the upstreams now. */
  retire(current: ReadonlySet<Upstream>): void {
    for (const fill of this.#fills) {
      if (!current.has(fill.origin.upstream) && fill.progress.followers === 0) fill.stop()
    }
  }

  /** Ends all fills; their bytes are kept for the next start. */
  async close(): Promise<void> {
    this.#closed = true
    const fills = [...this.#fills]
    for (const fill of fills) fill.stop()
    await Promise.all(fills.map((fill) => fill.settled))
  }

  #start(repository: MirrorRef, digest: Digest, size: Bytes | undefined): Fill {
    if (this.#closed) throw new OciError('UNAVAILABLE', undefined, { message: 'shutting down' })
    const fill = new Fill(this.#context, {
      origin: repository.origin,
      name: repository.name,
      digest,
      size,
    })
    const key = flightKey(repository.origin, digest)
    this.#running.set(key, fill)
    this.#fills.add(fill)
    // It stays until it settles, not until it is verified: in between, the fill is what answers.
    void fill.settled.then(() => {
      this.#fills.delete(fill)
      if (this.#running.get(key) === fill) this.#running.delete(key)
    })
    return fill
  }

  /** Opens it on the disk, when this repository may read it. */
  async #stored(
    repository: MirrorRef,
    digest: Digest,
    descriptor: Descriptor | undefined,
    signal: AbortSignal,
  ): Promise<BlobReader | undefined> {
    const { store, metadata, log, suspect } = this.#options
    const reader = await store.open(digest)
    if (reader === undefined) return undefined
    try {
      const agrees = descriptor?.size === reader.size
      // Either the descriptor's size is wrong, or the file: the size that was verified tells which.
      const expected = agrees ? undefined : await metadata.blobs.size(digest)
      const named = agrees || (descriptor !== undefined && expected === reader.size)
      if (expected !== undefined && expected !== reader.size) {
        log.warn({ digest, size: reader.size, expected }, 'a cached blob lost its size')
        suspect(digest)
      } else if (await this.#access.mayRead(repository, digest, named, reader.size, signal)) {
        return reader
      }
    } catch (error) {
      await reader[Symbol.asyncDispose]()
      throw error
    }
    await reader[Symbol.asyncDispose]()
    return undefined
  }

  /** The index has the blob, and its file is missing or not whole. */
  async #isLost(digest: Digest): Promise<boolean> {
    const { store, metadata } = this.#options
    const size = await metadata.blobs.size(digest)
    return size !== undefined && (await store.stat(digest))?.size !== size
  }

  #named(repository: MirrorRef, digest: Digest): Promise<Descriptor | undefined> {
    return this.#options.named(repository, digest)
  }

  async #link(fill: Fill, blob: BlobInfo): Promise<void> {
    const { metadata, log, now } = this.#options
    const registry = fill.origin.upstream.key
    try {
      await metadata.transaction((tx) => {
        tx.recordDelivery(registry, blob.digest, blob.size, now())
        for (const name of fill.names) {
          tx.putRepository({ registry, name }, now())
          tx.linkBlob({ registry, name }, blob.digest, blob.size, now())
        }
      })
    } catch (error) {
      log.debug({ err: error, digest: blob.digest }, 'a blob was kept but not remembered')
    }
  }
}

function hit(digest: Digest, reader: BlobReader): BlobAnswer {
  return {
    digest,
    size: reader.size,
    cache: 'hit',
    unverified: false,
    open: (range) => Promise.resolve(new StoredSource(reader, range)),
    [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
  }
}
