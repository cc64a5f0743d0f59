/**
 * Pins: images that `cache.pin` keeps from eviction, by the name of a pull, such as `docker.io/library/alpine:3.*`.
 *
 * A glob without a tag keeps all tags of its names, and what was pulled there by its digest alone. A pinned manifest
 * is kept with its closure, and so are its referrers.
 */
import type { Digest } from '../../oci/digest.ts'
import { matchesAny } from '../../oci/glob.ts'
import type { EvictionIndex } from '../../storage/metadata/eviction-index.ts'
import type { TaggedManifest } from '../../storage/metadata/metadata.ts'

export class Pins {
  readonly #globs: () => readonly string[]
  readonly #index: EvictionIndex

  constructor(globs: () => readonly string[], index: EvictionIndex) {
    this.#globs = globs
    this.#index = index
  }

  /** The glob that keeps an image by one of its tags, its digest, or its subject; not by an index that contains it. */
  async by(manifest: Digest): Promise<string | undefined> {
    if (this.#globs().length === 0) return undefined
    const own = this.#of(manifest, await this.#index.taggedManifests(manifest, 0))
    if (own !== undefined) return own
    for (const subject of await this.#index.subjects(manifest)) {
      const its = this.#of(subject, await this.#index.taggedManifests(subject, 0))
      if (its !== undefined) return its
    }
    return undefined
  }

  /** The glob that keeps a blob whatever references it: one over all of a repository that has it, or its digest. */
  async byLink(blob: Digest): Promise<string | undefined> {
    if (this.#globs().length === 0) return undefined
    const links = await this.#index.linkedIn(blob)
    return this.#of(
      blob,
      links.map((repository) => ({ repository, tags: [] })),
    )
  }

  #of(manifest: Digest, held: readonly Omit<TaggedManifest, 'manifest'>[]): string | undefined {
    for (const { repository, tags } of held) {
      const name = `${repository.registry}/${repository.name}`
      const images = [`${name}@${manifest}`, ...tags.map((tag) => `${name}:${tag}`)]
      const glob = this.#globs().find((it) => images.some((image) => pins(it, image)))
      if (glob !== undefined) return glob
    }
    return undefined
  }
}

/** @param image `registry/name:tag` or `registry/name@digest` */
export function pins(glob: string, image: string): boolean {
  const [names, sign, which] = split(glob)
  const [name, its, reference] = split(image)
  if (!matchesAny([names], name)) return false
  return sign === '' || (sign === its && matchesAny([which], reference))
}

/** A registry may have a port, and a digest has a colon too. */
function split(text: string): [name: string, sign: string, reference: string] {
  const at = text.indexOf('@')
  const end = at < 0 ? text.indexOf(':', text.lastIndexOf('/') + 1) : at
  return end < 0 ? [text, '', ''] : [text.slice(0, end), text.charAt(end), text.slice(end + 1)]
}
