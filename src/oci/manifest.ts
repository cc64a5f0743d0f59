/**
 * What a manifest's bytes mention.
 *
 * The bytes themselves are kept and served verbatim; this only reads them. Unknown fields and types are
 * legal, so everything that is not a descriptor is passed over.
 * Spec: image-spec manifest.md, image-index.md; Docker image manifest v2 schema 2.
 */
import type { Descriptor } from './descriptor.ts'
import type { Digest } from './digest.ts'

export interface ManifestContent {
  /** `mediaType` of the document, else the type its shape tells; never with parameters. */
  readonly mediaType: string
  readonly kind: 'image' | 'index' | 'artifact' | 'schema1' | 'unknown'
  /** Manifests an index names. */
  readonly manifests: readonly Descriptor[]
  readonly config: Descriptor | undefined
  /** Layers of an image, blobs of an artifact; in order, duplicates included. */
  readonly layers: readonly Descriptor[]
  readonly subject: Descriptor | undefined
  /** As the referrers API reports it: the manifest's own, else its config's media type (images only). */
  readonly artifactType: string | undefined
  readonly annotations: Readonly<Record<string, string>> | undefined
}

/**
 * @param declaredType the `Content-Type` it came with, parameters and all; the document's own `mediaType` wins
 * @throws OciError MANIFEST_INVALID when it is not JSON of an object, or a descriptor in it is malformed
 */
export function parseManifest(bytes: Uint8Array, declaredType?: string): ManifestContent {
  throw new Error(`to be written: ${String(bytes.length)} ${String(declaredType)}`)
}

export type { Digest }
