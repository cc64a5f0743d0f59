/**
 * Dry run of the garbage collector: what it would free now, and what that releases in turn. It changes nothing.
 *
 * It asks what the sweeps ask, as if all that was found had gone: a manifest takes along its children, its referrers
 * and the links of its blobs, a link its bytes.
 */
import type { Bytes } from '../../base/units.ts'
import { setImmediate as immediate } from 'node:timers/promises'
import type { Digest } from '../../oci/digest.ts'
import type { BlobInfo } from '../blobs/blob-store.ts'
import type {
  EpochMs,
  Garbage,
  GarbagePart,
  GarbagePlace,
  MetadataStore,
  RepositoryKey,
} from '../metadata/metadata.ts'

interface PlanOptions {
  readonly metadata: MetadataStore
  /** Content that was released, or that a client was told of, after this moment stays. */
  readonly before: EpochMs
  readonly signal: AbortSignal
}

export class CollectionPlan {
  readonly #options: PlanOptions
  readonly #manifests = new PlannedGarbage()
  readonly #links = new PlannedGarbage()

  constructor(options: PlanOptions) {
    this.#options = options
  }

  /** The caller reads it to its end before {@link links}. */
  async *manifests(): AsyncGenerator<Garbage> {
    const { before, metadata } = this.#options
    const { garbage } = metadata
    for await (const first of this.#parts((from) => garbage.manifests(before, from))) {
      const next = [first]
      for (let it = next.pop(); it !== undefined; it = next.pop()) {
        if (!this.#manifests.add(it)) continue
        yield it
        next.push(...(await this.#letGoWith(it)))
      }
    }
  }

  /** The caller reads it to its end before {@link blobs}. */
  async *links(): AsyncGenerator<Garbage> {
    const { before, metadata } = this.#options
    const { garbage } = metadata
    for await (const it of this.#parts((from) => garbage.links(before, from))) {
      if (this.#links.add(it)) yield it
    }
    for (const manifest of this.#manifests.all()) {
      for (const { digest } of await metadata.manifests.references(manifest.digest)) {
        const it = await this.#linkLetGo(manifest.repository, digest)
        if (it !== undefined && this.#links.add(it)) yield it
      }
    }
  }

  /** Yields no orphans, for the index does not know them. */
  async *blobs(): AsyncGenerator<BlobInfo> {
    const { metadata, before, signal } = this.#options
    const told = new Set<Digest>()
    for (let from: Digest | undefined; ;) {
      await breathe(signal)
      const { found, next } = await metadata.garbage.blobs(before, from)
      for (const it of found) told.add(it.digest)
      yield* found
      if (next === undefined) break
      from = next
    }
    for (const { digest } of [...this.#links.all(), ...this.#manifests.all()]) {
      signal.throwIfAborted()
      if (told.has(digest)) continue
      told.add(digest)
      const size = await this.#bytesLetGo(digest)
      if (size !== undefined) yield { digest, size }
    }
  }

  async *#parts(list: (from: GarbagePlace | undefined) => Promise<GarbagePart>): AsyncGenerator<Garbage> {
    for (let from: GarbagePlace | undefined; ;) {
      await breathe(this.#options.signal)
      const { found, next } = await list(from)
      yield* found
      if (next === undefined) return
      from = next
    }
  }

  /** The children and referrers of a manifest that goes which nothing else keeps. */
  async #letGoWith({ repository, digest, since }: Garbage): Promise<Garbage[]> {
    const { metadata, before, signal } = this.#options
    signal.throwIfAborted()
    const children = await metadata.manifests.references(digest)
    const referrers = await metadata.manifests.referrers(repository, digest)
    const candidates = [...children.filter(({ role }) => role === 'manifest'), ...referrers]
    const gone: Garbage[] = []
    for (const candidate of new Set(candidates.map((it) => it.digest))) {
      const held = await metadata.manifests.get(repository, candidate)
      if (held === undefined) continue
      const { size, subject, storedAt, releasedAt = since } = held
      if (storedAt > before || releasedAt > before) continue
      if ((await metadata.tags.of(repository, candidate)).length > 0) continue
      if (subject !== undefined && (await this.#stays(repository, subject))) continue
      if (await this.#isReferenced(candidate, { repository, role: 'manifest' })) continue
      gone.push({ repository, digest: candidate, size, since: releasedAt })
    }
    return gone
  }

  async #linkLetGo(repository: RepositoryKey, digest: Digest): Promise<Garbage | undefined> {
    const { metadata, before } = this.#options
    const since = await metadata.blobs.linkedAt(repository, digest)
    if (since === undefined || since > before || (await this.#isReferenced(digest, { repository })))
      return undefined
    return { repository, digest, size: (await metadata.blobs.size(digest)) ?? 0, since }
  }

  async #bytesLetGo(digest: Digest): Promise<Bytes | undefined> {
    const { garbage, blobs } = this.#options.metadata
    const links = await garbage.linkedIn(digest)
    const manifests = await garbage.taggedManifests(digest, 0)
    const held =
      (await garbage.isDelivered(digest)) ||
      links.some((repository) => !this.#links.has(repository, digest)) ||
      manifests.some(({ repository }) => !this.#manifests.has(repository, digest))
    return held ? undefined : ((await blobs.size(digest)) ?? 0)
  }

  async #stays(repository: RepositoryKey, digest: Digest): Promise<boolean> {
    if (this.#manifests.has(repository, digest)) return false
    return (await this.#options.metadata.manifests.get(repository, digest)) !== undefined
  }

  /** Whether a manifest that stays references the digest. */
  async #isReferenced(
    digest: Digest,
    among: { readonly repository: RepositoryKey; readonly role?: 'manifest' },
  ): Promise<boolean> {
    const parents = await this.#options.metadata.garbage.referencedBy(digest, among)
    return parents.some((manifest) => !this.#manifests.has(among.repository, manifest))
  }
}

/** Yields to the event loop between two reads, which block it. */
export async function breathe(signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  await immediate()
}

/** Garbage by its repository and digest. */
class PlannedGarbage {
  readonly #entries = new Map<string, Garbage>()

  /** @returns false when it was there already */
  add(it: Garbage): boolean {
    const key = keyOf(it.repository, it.digest)
    if (this.#entries.has(key)) return false
    this.#entries.set(key, it)
    return true
  }

  has(repository: RepositoryKey, digest: Digest): boolean {
    return this.#entries.has(keyOf(repository, digest))
  }

  all(): Iterable<Garbage> {
    return this.#entries.values()
  }
}

function keyOf({ registry, name }: RepositoryKey, digest: Digest): string {
  return `${registry}/${name}@${digest}`
}
