/**
 * What `cache.pin` keeps: images by the names they are pulled under, `docker.io/library/alpine:3.*`.
 *
 * A glob without a tag keeps all tags of its names. What a pinned tag names is kept with all it refers to, and so is
 * what refers to it.
 */
import type { Digest } from '../oci/digest.ts'
import { matchesAny } from '../oci/glob.ts'
import type { EvictionIndex, Holding } from '../store/eviction.ts'

export class Pinned {
  readonly #globs: () => readonly string[]
  readonly #index: EvictionIndex

  constructor(globs: () => readonly string[], index: EvictionIndex) {
    this.#globs = globs
    this.#index = index
  }

  /** The glob that keeps an image by one of its tags, or by its digest; not what keeps those that it belongs to. */
  async by(manifest: Digest): Promise<string | undefined> {
    if (this.#globs().length === 0) return undefined
    const own = this.#of(manifest, await this.#index.holding(manifest))
    if (own !== undefined) return own
    for (const subject of await this.#index.subjects(manifest)) {
      const its = this.#of(subject, await this.#index.holding(subject))
      if (its !== undefined) return its
    }
    return undefined
  }

  #of(manifest: Digest, holdings: readonly Holding[]): string | undefined {
    for (const { repository, tags } of holdings) {
      const name = `${repository.registry}/${repository.name}`
      const glob = this.#globs().find((it) => keeps(it, name, manifest, tags))
      if (glob !== undefined) return glob
    }
    return undefined
  }
}

function keeps(glob: string, name: string, digest: Digest, tags: readonly string[]): boolean {
  const at = glob.indexOf('@')
  const colon = at < 0 ? glob.indexOf(':', glob.lastIndexOf('/') + 1) : -1
  const end = at < 0 ? colon : at
  if (end < 0) return matchesAny([glob], name)
  const which = glob.slice(end + 1)
  if (!matchesAny([glob.slice(0, end)], name)) return false
  return at < 0 ? tags.some((tag) => matchesAny([which], tag)) : matchesAny([which], digest)
}
