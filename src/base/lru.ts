/**
 * LRU cache with a limit of entries, which may expire.
 *
 * Entries have size 1: with a `max` of a thousand, each of an upstream's caches would take 23 KiB at once (measured).
 */
import { LRUCache } from 'lru-cache'
import type { Milliseconds } from './units.ts'

interface Expiry {
  /** Default: each entry has its own. */
  readonly ttl?: Milliseconds
  /** Monotonic. */
  readonly now: () => Milliseconds
}

export function createLru<Key extends string, Value extends object | boolean | number | string>(
  most: number,
  expiry?: Expiry,
): LRUCache<Key, Value> {
  const { ttl = 0, now = () => 0 } = expiry ?? {}
  return new LRUCache({
    maxSize: most,
    sizeCalculation: () => 1,
    ttl,
    ttlResolution: 0,
    // In lru-cache an entry that starts at 0 never expires.
    perf: { now: () => now() + 1 },
  })
}
