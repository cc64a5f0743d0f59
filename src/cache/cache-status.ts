/**
 * Cache status of an answer: the header `X-Cache`, the log field `cache`, the metric label `cache`.
 *
 * - `hit` from here · `join` a running fill · `miss` upstream was asked for it
 * - `stale` from here although upstream could not confirm it · `bypass` streamed through, not cached
 * - `local` pushed here
 */
export type CacheStatus = 'hit' | 'join' | 'miss' | 'stale' | 'bypass' | 'local'

/** Goes with every answer of the cache. */
export interface CacheMarks {
  readonly cache: CacheStatus
  /** Says why a stale answer is stale; sent as `Warning: 299`. */
  readonly warning?: string
}
