/**
 * Pending tag moves: what a tag names now by a HEAD, while that manifest is not here and the previous one is.
 *
 * Recording it at once would leave nothing to answer with, should upstream fail before a client has fetched it.
 * Within its TTL it counts like a recorded tag: upstream is not asked again.
 */
import { LRUCache } from 'lru-cache'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { TagRecord } from '../../storage/metadata/metadata.ts'
import type { MirrorRef } from '../origin.ts'

export class PendingTagMoves {
  // Bounded by `maxSize`, since `max` would allocate all entries at once.
  readonly #told = new LRUCache<string, TagRecord>({ maxSize: 1_000, sizeCalculation: () => 1 })

  get(repository: MirrorRef, tag: Tag): TagRecord | undefined {
    return this.#told.get(keyOf(repository, tag))
  }

  tell(repository: MirrorRef, told: TagRecord): void {
    this.#told.set(keyOf(repository, told.tag), told)
  }

  /** The move is recorded, or the tag is gone. */
  forget(repository: MirrorRef, tag: Tag): void {
    this.#told.delete(keyOf(repository, tag))
  }

  /** Removes and returns the moves to that digest, whose manifest has come. */
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
