/**
 * LRU cache of so many entries, which may expire.
 *
 * Every entry has the size 1: for a `max` of a thousand lru-cache would take 23 KiB at once (measured), and there are
 * several caches for each upstream.
 */
import { LRUCache } from 'lru-cache'
import type { Milliseconds } from './units.ts'

interface Expiry {
  /** Default: that of each entry. */
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
    // What began at 0 would never expire for lru-cache.
    perf: { now: () => now() + 1 },
  })
}
