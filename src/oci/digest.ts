/**
 * Digests: `sha256:<64 hex>` or `sha512:<128 hex>`, lower case, nothing else.
 *
 * Only {@link parseDigest} and {@link digestOf} make a `Digest`, so its text is safe in a file name.
 * Spec: image-spec descriptor.md § Digests.
 */
import { createHash } from 'node:crypto'
import { OciError } from './errors.ts'

declare const brand: unique symbol
export type Digest = string & { readonly [brand]: 'Digest' }

export type DigestAlgorithm = 'sha256' | 'sha512'

const GRAMMAR = /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/

/** @throws OciError DIGEST_INVALID, also for algorithms that the registry cannot verify */
export function parseDigest(text: string): Digest {
  if (!GRAMMAR.test(text)) throw new OciError('DIGEST_INVALID', { digest: text.slice(0, 160) })
  return text as Digest
}

export function isDigest(text: string): text is Digest {
  return GRAMMAR.test(text)
}

export function digestOf(bytes: Uint8Array, algorithm: DigestAlgorithm = 'sha256'): Digest {
  return digestFromHex(algorithm, createHash(algorithm).update(bytes).digest('hex'))
}

/** @throws OciError DIGEST_INVALID when `hex` does not have the algorithm's length or alphabet */
export function digestFromHex(algorithm: DigestAlgorithm, hex: string): Digest {
  return parseDigest(`${algorithm}:${hex}`)
}

export function algorithmOf(digest: Digest): DigestAlgorithm {
  return digest.startsWith('sha256:') ? 'sha256' : 'sha512'
}

export function hexOf(digest: Digest): string {
  return digest.slice(digest.indexOf(':') + 1)
}
