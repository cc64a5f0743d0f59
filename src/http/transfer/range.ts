/**
 * Range requests and conditional requests for blobs.
 *
 * A blob's entity tag is its digest in quotes, so conditions are decided before the blob is looked up.
 * Ranges with a syntax error are ignored (RFC 9110 § 14.2), those that cannot be satisfied give a 416.
 * Spec: RFC 9110 § 13 (conditions), § 14 (ranges); distribution-spec § Pulling blobs.
 */
import type { Digest } from '../../oci/digest.ts'

/** Half-open. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

/** Syntax: `first-last`, `first-`, or `-suffix`. */
type RangeSpec = { readonly first: number; readonly last: number | undefined } | { readonly suffix: number }

type RangeSpecs = readonly RangeSpec[]

export type RangePlan =
  | { readonly kind: 'whole' }
  | { readonly kind: 'single'; readonly range: ByteRange }
  | { readonly kind: 'multipart'; readonly ranges: readonly ByteRange[] }
  | { readonly kind: 'unsatisfiable' }

/** Podman requests hundreds of parts of a zstd:chunked layer at once; no client needs more than this. */
const MAX_PARTS = 1024

const SPEC = /^(?:([0-9]+)-([0-9]*)|-([0-9]+))$/

/** @returns undefined when the server has to ignore the header: absent, another unit, malformed, too many parts */
export function parseRange(header: string | undefined): RangeSpecs | undefined {
  const set = /^bytes=(.*)$/is.exec(header ?? '')?.[1]
  if (set === undefined) return undefined
  const specs: RangeSpec[] = []
  for (const element of set.split(',')) {
    // A regular expression would take quadratic time to match trailing spaces.
    const text = element.trim()
    // § 5.6.1.2: a recipient must accept empty list elements.
    if (text === '') continue
    const found = SPEC.exec(text)
    if (!found) return undefined
    const [, first, last, suffix] = found
    if (suffix !== undefined) specs.push({ suffix: position(suffix) })
    else specs.push({ first: position(first), last: last === '' ? undefined : position(last) })
    if (specs.length > MAX_PARTS) return undefined
  }
  return specs.length === 0 ? undefined : specs
}

/** `bytes=0-` is the whole blob, whatever its size; containerd 2.1 sends it with every request. */
export function wantsAll(specs: RangeSpecs): boolean {
  const [only, ...more] = specs
  return (
    more.length === 0 && only !== undefined && 'first' in only && only.first === 0 && only.last === undefined
  )
}

export function planRanges(specs: RangeSpecs | undefined, size: number): RangePlan {
  // No range of an empty blob is satisfiable, but containerd 2.1 sends `bytes=0-` always and fails on a 416.
  if (specs === undefined || size === 0) return { kind: 'whole' }
  const ranges = specs.map((spec) => resolve(spec, size)).filter((range) => range !== undefined)
  const [first] = ranges
  if (first === undefined) return { kind: 'unsatisfiable' }
  if (specs.length === 1) return { kind: 'single', range: first }
  // With overlapping parts a small request could demand any number of bytes (§ 14.2).
  if (ranges.reduce((sum, { start, end }) => sum + end - start, 0) > size) return { kind: 'whole' }
  // Multipart even when one part is left: podman takes a plain 206 for its first part.
  return { kind: 'multipart', ranges }
}

export function contentRange({ start, end }: ByteRange, size: number): string {
  return `bytes ${start}-${end - 1}/${size}`
}

export function etagOf(digest: Digest): string {
  return `"${digest}"`
}

/** § 13.1.2, weak comparison. Accepts unquoted digests, as distribution does. */
export function matchesNone(ifNoneMatch: string | undefined, digest: Digest): boolean {
  if (ifNoneMatch === undefined) return false
  return ifNoneMatch.split(',').some((element) => {
    const tag = element.trim()
    return tag === '*' || unquote(tag.replace(/^W\//, '')) === digest
  })
}

/** § 13.1.5, strong comparison; a date never matches, because blobs have none. */
export function rangeStillValid(ifRange: string | undefined, digest: Digest): boolean {
  return ifRange === undefined || unquote(ifRange.trim()) === digest
}

function unquote(tag: string): string {
  return /^"(.*)"$/.exec(tag)?.[1] ?? tag
}

function position(digits: string | undefined): number {
  return Math.min(Number(digits), Number.MAX_SAFE_INTEGER)
}

function resolve(spec: RangeSpec, size: number): ByteRange | undefined {
  if ('suffix' in spec) {
    const start = Math.max(0, size - spec.suffix)
    return start < size ? { start, end: size } : undefined
  }
  // § 14.1.1 calls `500-0` invalid; the conformance suite demands 416 for it.
  const last = Math.min(spec.last ?? size - 1, size - 1)
  return spec.first <= last ? { start: spec.first, end: last + 1 } : undefined
}
