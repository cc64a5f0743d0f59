/**
 * Repository names, tags, and references (a tag or a digest).
 *
 * Input is parsed once, where it enters; inner code takes the branded types and never a raw string.
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

/** Clients apply the limit of 255 to host and name together. */
const MAX_NAME_LENGTH = 255

/** @throws OciError NAME_INVALID */
export function parseRepositoryName(text: string): RepositoryName {
  // Length first: the expression is linear, yet a name may be a megabyte long.
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

/** A `:` is illegal in a tag, so it marks a digest. @throws OciError TAG_INVALID or DIGEST_INVALID */
export function parseReference(text: string): Reference {
  return text.includes(':') ? parseDigest(text) : parseTag(text)
}

export function isDigestReference(reference: Reference): reference is Digest {
  return isDigest(reference)
}

/** An image as users write it: `nginx`, `team/app:1`, `quay.io/x/y@sha256:…`. */
export interface ImageReference {
  readonly name: RepositoryName
  readonly reference: Reference
}

/**
 * Without tag and digest it means `latest`; with both the digest counts, as for every client.
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
