/**
 * Descriptors and the media types that matter to a registry.
 *
 * Unknown media types are legal everywhere and pass through untouched.
 * Spec: image-spec descriptor.md, media-types.md; Docker image manifest v2 schema 2.
 */
import type { Digest } from './digest.ts'

export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  /** Bytes, as the manifest claims (the digest decides); undefined: it claims none. */
  readonly size: number | undefined
  readonly artifactType?: string
  /** A manifest's child has only those of {@link ATTESTATION}. */
  readonly annotations?: Readonly<Record<string, string>>
  /** Locations of a non-distributable layer. */
  readonly urls?: readonly string[]
}

export const MEDIA_TYPES = {
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  /** Existed in release candidates of image-spec 1.1; some registries still hold it. */
  ociArtifact: 'application/vnd.oci.artifact.manifest.v1+json',
  dockerIndex: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerSchema1: 'application/vnd.docker.distribution.manifest.v1+json',
  dockerSchema1Signed: 'application/vnd.docker.distribution.manifest.v1+prettyjws',
} as const

/** Annotations with which BuildKit marks a child of an index as an attestation, and names the child that it attests. */
export const ATTESTATION = {
  type: 'vnd.docker.reference.type',
  subject: 'vnd.docker.reference.digest',
} as const

const MANIFEST_TYPES: ReadonlySet<string> = new Set(Object.values(MEDIA_TYPES))

/**
 * `Accept` of every manifest request upstream. Where a type is missing Quay converts the manifest and other registries
 * answer 404, and neither honours the wildcard. Schema 1 is left out on purpose: naming it invites that conversion.
 */
export const ACCEPT_MANIFESTS = [
  MEDIA_TYPES.ociIndex,
  MEDIA_TYPES.dockerIndex,
  MEDIA_TYPES.ociManifest,
  MEDIA_TYPES.dockerManifest,
  MEDIA_TYPES.ociArtifact,
  '*/*',
].join(', ')

export function isIndexType(mediaType: string): boolean {
  return mediaType === MEDIA_TYPES.ociIndex || mediaType === MEDIA_TYPES.dockerIndex
}

export function isManifestType(mediaType: string): boolean {
  return MANIFEST_TYPES.has(mediaType)
}

/** Registries need not hold such layers: their bytes are at `urls`, or nowhere. */
export function isNonDistributable(descriptor: Pick<Descriptor, 'mediaType' | 'urls'>): boolean {
  return (
    descriptor.mediaType.includes('.nondistributable.') ||
    descriptor.mediaType === 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' ||
    (descriptor.urls?.length ?? 0) > 0
  )
}

/** Largest manifest accepted from clients and upstreams; the specification demands at least this. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024
