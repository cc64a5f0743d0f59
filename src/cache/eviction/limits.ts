/**
 * Limits of the disk that the mirror may use: the configuration applied to a disk of a certain size.
 */
import type { Bytes } from '../../base/units.ts'

/** The smaller of both values; neither: no limit. */
export interface Share {
  readonly bytes: Bytes | undefined
  /** Percent of the file system. */
  readonly percent: number | undefined
}

export interface BudgetSettings {
  readonly maxSize: Share
  /** Free bytes of the file system, whatever `maxSize` says. */
  readonly minFree: Share
  /** By registry; upstreams without a limit are left out. */
  readonly upstreams: ReadonlyMap<string, Share>
}

export interface Limits {
  readonly total: Bytes
  readonly upstreams: ReadonlyMap<string, Bytes>
  readonly minFree: Bytes
}

/** Eviction starts above a limit and stops here, so that it does not start again at once. */
const STOPS_AT = 0.9

export function limitsOf({ maxSize, minFree, upstreams }: BudgetSettings, disk: Bytes): Limits {
  return {
    total: bytesOf(maxSize, disk),
    upstreams: new Map(Array.from(upstreams, ([key, share]) => [key, bytesOf(share, disk)])),
    minFree: minFree.bytes === undefined && minFree.percent === undefined ? 0 : bytesOf(minFree, disk),
  }
}

/** The largest blob of that registry that may stay. */
export function roomFor(registry: string, { total, upstreams }: Limits): Bytes {
  return Math.min(total, upstreams.get(registry) ?? total)
}

export function targetOf(limit: Bytes): Bytes {
  return Math.floor(limit * STOPS_AT)
}

export function bytesOf({ bytes = Number.MAX_SAFE_INTEGER, percent }: Share, disk: Bytes): Bytes {
  return Math.min(bytes, percent === undefined ? bytes : Math.floor((disk * percent) / 100))
}
