/**
 * Which names of upstreams were served here: what the index says, and what was answered a moment ago.
 *
 * An answer does not wait until it is written down, and a disk that takes nothing writes nothing down. A push must not
 * take such a name for free: it would hide what somebody has just pulled.
 */
import { repositoryKey, type MirrorRef } from '../../cache/origin.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'

/**
 * Each is of at most 255 characters. One that is forgotten, after so many others or twice as many, is in the index by
 * then, unless the disk is broken.
 */
const MOST_RECENT = 5_000

export class ServedNames {
  readonly #index: Pick<MetadataStore, 'repositories'>
  /** Two generations: every answer is written down here, and a cache that keeps an order costs ten times as much. */
  #recent = new Set<string>()
  #before: ReadonlySet<string> = new Set()

  constructor(index: Pick<MetadataStore, 'repositories'>) {
    this.#index = index
  }

  /** Something of it is being answered. */
  add(mirrored: MirrorRef): void {
    this.#recent.add(textOf(mirrored))
    if (this.#recent.size <= MOST_RECENT) return
    this.#before = this.#recent
    this.#recent = new Set()
  }

  /** @throws when the index cannot be read: it takes no push either */
  async has(mirrored: MirrorRef): Promise<boolean> {
    const known = await this.#index.repositories.get(repositoryKey(mirrored))
    const text = textOf(mirrored)
    return known?.servedAt !== undefined || this.#recent.has(text) || this.#before.has(text)
  }
}

function textOf({ origin, name }: MirrorRef): string {
  return `${origin.upstream.key}/${name}`
}
