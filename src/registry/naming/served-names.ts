/**
 * Names of upstream repositories that were served here: those in the index, and those of the latest answers.
 *
 * An answer does not wait for its commit, and a failing disk takes none. A push must not take such a name for free: it
 * would hide what another client has just pulled.
 */
import { repositoryKey, type MirrorRef } from '../../cache/origin.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'

/** A name of up to 255 characters is dropped after 5,000 to 10,000 others; unless the disk fails, the index has it. */
const MOST_RECENT = 5_000

export class ServedNames {
  readonly #index: Pick<MetadataStore, 'repositories'>
  /** Two generations: this runs for every answer, and an LRU costs ten times as much. */
  #recent = new Set<string>()
  #before: ReadonlySet<string> = new Set()

  constructor(index: Pick<MetadataStore, 'repositories'>) {
    this.#index = index
  }

  /** Must be called before an answer from that repository. */
  add(mirrored: MirrorRef): void {
    this.#recent.add(textOf(mirrored))
    if (this.#recent.size <= MOST_RECENT) return
    this.#before = this.#recent
    this.#recent = new Set()
  }

  /** @throws when the index cannot be read: then it takes no push either */
  async has(mirrored: MirrorRef): Promise<boolean> {
    const known = await this.#index.repositories.get(repositoryKey(mirrored))
    const text = textOf(mirrored)
    return known?.servedAt !== undefined || this.#recent.has(text) || this.#before.has(text)
  }
}

function textOf({ origin, name }: MirrorRef): string {
  return `${origin.upstream.key}/${name}`
}
