/**
 * Which bytes of a blob a request wants, and whether it has them already.
 *
 * A blob's entity tag is its digest in quotes, so conditions can be decided before the blob is looked for.
 * What is syntactically wrong is ignored (RFC 9110 § 14.2), what cannot be satisfied is a 416.
 * Spec: RFC 9110 § 13 (conditions), § 14 (ranges); distribution-spec § Pulling blobs.
 */
import type { Digest } from '../../oci/digest.ts'

/** Half-open. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

/** As written: `first-last`, `first-`, or `-suffix`. */
type RangeSpec = { readonly first: number; readonly last: number | undefined } | { readonly suffix: number }

type RangeSpecs = readonly RangeSpec[]

export type RangePlan =
  | { readonly kind: 'whole' }
  | { readonly kind: 'single'; readonly range: ByteRange }
  | { readonly kind: 'multipart'; readonly ranges: readonly ByteRange[] }
  | { readonly kind: 'unsatisfiable' }

/** Podman asks for hundreds of parts of a zstd:chunked layer at once; more than this is an attack. */
const MAX_PARTS = 1024

const SPEC = /^(?:([0-9]+)-([0-9]*)|-([0-9]+))$/

/** @returns undefined when there is nothing to obey: no header, another unit, or nonsense */
export function parseRange(header: string | undefined): RangeSpecs | undefined {
  const set = /^bytes=(.*)$/is.exec(header ?? '')?.[1]
  if (set === undefined) return undefined
  const specs: RangeSpec[] = []
  for (const element of set.split(',')) {
    // An expression for the spaces at the end would begin anew at each of them.
    const text = element.trim()
    // § 5.6.1.2: empty list elements are to be tolerated.
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
  // Nothing of an empty blob can be asked for, but containerd 2.1 puts `bytes=0-` on everything and takes no 416.
  if (specs === undefined || size === 0) return { kind: 'whole' }
  const ranges = specs.map((spec) => resolve(spec, size)).filter((range) => range !== undefined)
  const [first] = ranges
  if (first === undefined) return { kind: 'unsatisfiable' }
  if (specs.length === 1) return { kind: 'single', range: first }
  // Overlapping parts would let a small request ask for any amount of bytes (§ 14.2).
  if (ranges.reduce((sum, { start, end }) => sum + end - start, 0) > size) return { kind: 'whole' }
  // Also when only one is left: podman takes a plain 206 for its first part.
  return { kind: 'multipart', ranges }
}

/** Value of `Content-Range` for a part. */
export function contentRange({ start, end }: ByteRange, size: number): string {
  return `bytes ${start}-${end - 1}/${size}`
}

export function etagOf(digest: Digest): string {
  return `"${digest}"`
}

/** § 13.1.2, weak comparison. Unquoted digests are accepted as distribution does. */
export function matchesNone(ifNoneMatch: string | undefined, digest: Digest): boolean {
  if (ifNoneMatch === undefined) return false
  return ifNoneMatch.split(',').some((element) => {
    const tag = element.trim()
    return tag === '*' || unquote(tag.replace(/^W\//, '')) === digest
  })
}

/** § 13.1.5, strong comparison; a date never matches, for blobs have none. */
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
  // § 14.1.1 calls `500-0` invalid; the conformance suite wants 416 for it.
  const last = Math.min(spec.last ?? size - 1, size - 1)
  return spec.first <= last ? { start: spec.first, end: last + 1 } : undefined
}
