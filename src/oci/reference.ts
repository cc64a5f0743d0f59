/**
 * Repository names, tags, and the reference that is one of a tag or a digest.
 *
 * Parsed once at the edge; inner code takes the branded types and never a raw string.
 * Spec: distribution-spec § Pulling manifests.
 */
import { isDigest, parseDigest, type Digest } from './digest.ts'
import { OciError } from './errors.ts'

declare const brand: unique symbol
export type RepositoryName = string & { readonly [brand]: 'RepositoryName' }
export type Tag = string & { readonly [brand]: 'Tag' }
export type Reference = Tag | Digest

const COMPONENT = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*'
const NAME = new RegExp(`^${COMPONENT}(?:/${COMPONENT})*$`)
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/

/** Clients count the registry's host into the same 255 characters. */
const MAX_NAME_LENGTH = 255

/** @throws OciError NAME_INVALID */
export function parseRepositoryName(text: string): RepositoryName {
  // The length first: the expression is linear, but there is no need to run it over a megabyte.
  if (text.length > MAX_NAME_LENGTH || !NAME.test(text)) {
    throw new OciError('NAME_INVALID', { name: text.slice(0, 300) })
  }
  return text as RepositoryName
}

/** @throws OciError TAG_INVALID */
export function parseTag(text: string): Tag {
  if (!TAG.test(text)) throw new OciError('TAG_INVALID', { tag: text.slice(0, 160) })
  return text as Tag
}

/**
 * A `:` is never legal in a tag, so it tells the two apart.
 *
 * @throws OciError TAG_INVALID or DIGEST_INVALID
 */
export function parseReference(text: string): Reference {
  return text.includes(':') ? parseDigest(text) : parseTag(text)
}

export function isDigestReference(reference: Reference): reference is Digest {
  return isDigest(reference)
}

/** As people write an image: `nginx`, `team/app:1`, `quay.io/x/y@sha256:…`. */
export interface ImageReference {
  readonly name: RepositoryName
  readonly reference: Reference
}

/**
 * Without a tag and a digest `latest` is meant; of both the digest counts, as for every client.
 *
 * @throws OciError NAME_INVALID, TAG_INVALID or DIGEST_INVALID
 */
export function parseImageReference(text: string): ImageReference {
  const at = text.indexOf('@')
  const named = at < 0 ? text : text.slice(0, at)
  const colon = named.indexOf(':', named.lastIndexOf('/') + 1)
  const name = parseRepositoryName(colon < 0 ? named : named.slice(0, colon))
  const tag = parseTag(colon < 0 ? 'latest' : named.slice(colon + 1))
  return { name, reference: at < 0 ? tag : parseDigest(text.slice(at + 1)) }
}
