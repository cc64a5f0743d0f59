/**
 * By tag, what a HEAD said that it names now, while that is not here and what it named before is.
 *
 * To write it down would leave nothing to answer with, should upstream stumble before anybody has fetched it. It is
 * as good as a tag that was written down: within its TTL upstream need not be asked again.
 */
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { TagRecord } from '../../storage/metadata/metadata.ts'
import type { MirrorRef } from '../origin.ts'

export class PendingTagMoves {
  // Of a size, not of a number: room for a number would be taken at once.
  readonly #told = new LRUCache<string, TagRecord>({ maxSize: 1_000, sizeCalculation: () => 1 })

  get(repository: MirrorRef, tag: Tag): TagRecord | undefined {
    return this.#told.get(keyOf(repository, tag))
  }

  tell(repository: MirrorRef, told: TagRecord): void {
    this.#told.set(keyOf(repository, told.tag), told)
  }

  /** What it names is written down, or it names nothing any more. */
  forget(repository: MirrorRef, tag: Tag): void {
    this.#told.delete(keyOf(repository, tag))
  }

  /** Those that name it, which are forgotten here: it has come. */
  arrived(repository: MirrorRef, digest: Digest): TagRecord[] {
    return [...this.#told.entries()].flatMap(([key, told]) => {
      if (told.digest !== digest || key !== keyOf(repository, told.tag)) return []
      this.#told.delete(key)
      return [told]
    })
  }
}

function keyOf({ origin, name }: MirrorRef, tag: Tag): string {
  return `${origin.upstream.key} ${name}:${tag}`
}
