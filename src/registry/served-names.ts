/**
 * Which names of upstreams were served here: what the index says, and what was answered a moment ago.
 *
 * An answer does not wait until it is written down, and a disk that takes nothing writes nothing down. A push must not
 * take such a name for free: it would hide what somebody has just pulled.
 */
import { LRUCache } from 'lru-cache'
import { repositoryKey, type MirroredName } from '../cache/origin.ts'
import type { MetadataStore } from '../store/metadata.ts'

/** Each is of at most 255 characters. One that is forgotten is in the index by then, unless the disk is broken. */
const MOST_RECENT = 10_000

export class ServedNames {
  readonly #index: Pick<MetadataStore, 'repositories'>
  readonly #recent = new LRUCache<string, true>({ max: MOST_RECENT })

  constructor(index: Pick<MetadataStore, 'repositories'>) {
    this.#index = index
  }

  /** Something of it is being answered. */
  add(mirrored: MirroredName): void {
    this.#recent.set(textOf(mirrored), true)
  }

  /** @throws when the index cannot be read: it takes no push either */
  async has(mirrored: MirroredName): Promise<boolean> {
    const known = await this.#index.repositories.get(repositoryKey(mirrored))
    return known?.servedAt !== undefined || this.#recent.has(textOf(mirrored))
  }
}

function textOf({ origin, name }: MirroredName): string {
  return `${origin.upstream.key}/${name}`
}
