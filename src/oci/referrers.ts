/**
 * Referrers lists: the pages of the API, and the fallback index under the referrers tag.
 *
 * Spec: distribution-spec § Listing referrers, § Referrers tag schema.
 */
import { MAX_MANIFEST_BYTES, MEDIA_TYPES, type Descriptor } from './descriptor.ts'
import { algorithmOf, hexOf, type Digest } from './digest.ts'
import { parsePage } from './pagination.ts'
import { parseTag, type Tag } from './reference.ts'

/** Clients read no larger index; 64 KiB are left for what surrounds the descriptors. */
const MAX_PAGE_BYTES = MAX_MANIFEST_BYTES - 64 * 1024

interface ReferrersPage {
  readonly bytes: Buffer
  readonly filtersApplied: string | undefined
  readonly next: URLSearchParams | undefined
}

/**
 * One page of `all`, sorted by digest; the descriptors are passed on unchanged.
 *
 * @param query of the request: `artifactType`, and `n` and `last` as in tag lists
 * @throws OciError PAGINATION_NUMBER_INVALID
 */
export function referrersPage(
  all: readonly Pick<Descriptor, 'digest' | 'artifactType'>[],
  query: URLSearchParams,
): ReferrersPage {
  const { n = Infinity, last = '' } = parsePage(query)
  const wanted = query.get('artifactType')
  const rest = all
    .filter(({ digest, artifactType }) => digest > last && (wanted === null || artifactType === wanted))
    .sort((one, other) => (one.digest < other.digest ? -1 : 1))
  const manifests = firstOf(rest, n)
  const end = manifests.at(-1)
  const next = new URLSearchParams(query)
  if (end !== undefined) next.set('last', end.digest)
  return {
    bytes: indexOf(manifests),
    filtersApplied: wanted === null ? undefined : 'artifactType',
    next: end !== undefined && manifests.length < rest.length ? next : undefined,
  }
}

function firstOf<T>(descriptors: readonly T[], n: number): readonly T[] {
  let bytes = 0
  const end = descriptors.findIndex((descriptor, at) => {
    bytes += Buffer.byteLength(JSON.stringify(descriptor)) + 1
    return at >= n || (at > 0 && bytes > MAX_PAGE_BYTES)
  })
  return end < 0 ? descriptors : descriptors.slice(0, end)
}

function indexOf(manifests: readonly unknown[]): Buffer {
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests }))
}

/** `sha256-…`: the schema allows 32 characters for the algorithm, and 64 for the hash. */
export function referrersTag(subject: Digest): Tag {
  return parseTag(`${algorithmOf(subject)}-${hexOf(subject).slice(0, 64)}`)
}

/**
 * Prefix of the subject's digest (a sha256 whole, a sha512 by half, which is all that the tag holds); undefined for
 * any other tag.
 */
export function subjectOfReferrersTag(tag: Tag): string | undefined {
  const match = /^(sha256|sha512)-([0-9a-f]{64})$/.exec(tag)
  return match === null ? undefined : `${String(match[1])}:${String(match[2])}`
}

/**
 * Adds a manifest to the index under a referrers tag, or removes one; the rest of the document is kept.
 *
 * @returns undefined when nothing changes, or when the bytes are no index
 */
export function withReferrer(
  index: Buffer,
  change: { readonly add: Descriptor } | { readonly remove: Digest },
): Buffer | undefined {
  const document = JSON.parse(index.toString()) as { manifests?: unknown }
  if (!Array.isArray(document.manifests)) return undefined
  // An index that did not come from an OCI client may list anything, even null.
  const before = document.manifests as readonly ({ digest?: unknown } | null)[]
  const listed = (digest: Digest): boolean => before.some((it) => it?.digest === digest)
  if ('add' in change) {
    if (listed(change.add.digest)) return undefined
    return Buffer.from(JSON.stringify({ ...document, manifests: [...before, change.add] }))
  }
  if (!listed(change.remove)) return undefined
  const manifests = before.filter((it) => it?.digest !== change.remove)
  return Buffer.from(JSON.stringify({ ...document, manifests }))
}
