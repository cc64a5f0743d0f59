/**
 * File format of a backup: an OCI image layout, and beside it `entrepot.json` with what a layout cannot say.
 *
 * `entrepot.json` is the last file: an archive that has it is complete, or lists itself what it lacks.
 * Spec: image-spec image-layout.md.
 */
import type { Bytes } from '../../base/units.ts'
import { MEDIA_TYPES } from '../../oci/descriptor.ts'
import { algorithmOf, hexOf, isDigest, type Digest } from '../../oci/digest.ts'
import type { RepositoryName, Tag } from '../../oci/reference.ts'
import type { EpochMs } from '../../storage/metadata/metadata.ts'

export const VERSION = 1

export const LAYOUT_FILE = 'oci-layout'
export const INDEX_FILE = 'index.json'
export const CONTENTS_FILE = 'entrepot.json'

export const LAYOUT = Buffer.from(JSON.stringify({ imageLayoutVersion: '1.0.0' }))

/** The list of a registry with a million manifests is as long. */
export const MOST_CONTENTS: Bytes = 256 * 1024 * 1024

export interface SavedManifest {
  readonly digest: Digest
  readonly size: Bytes
  readonly mediaType: string
}

export interface SavedBlob {
  readonly digest: Digest
  readonly size: Bytes
}

export interface SavedRepository {
  readonly name: RepositoryName
  /** When the whole repository was deleted; its name is still taken. */
  readonly deletedAt?: EpochMs
  readonly tags: readonly { readonly tag: Tag; readonly digest: Digest }[]
  /** Includes manifests without a tag: images of indexes, referrers, what is pulled by digest. */
  readonly manifests: readonly SavedManifest[]
  /** The blobs that clients may read in this repository. */
  readonly blobs: readonly SavedBlob[]
}

export interface Contents {
  readonly repositories: readonly SavedRepository[]
  /** Digests whose bytes were lost or damaged when the backup was made. */
  readonly lost: readonly Digest[]
}

export function blobName(digest: Digest): string {
  return `blobs/${algorithmOf(digest)}/${hexOf(digest)}`
}

/** @returns undefined for a file that is no blob */
export function digestOfName(name: string): Digest | undefined {
  const [, algorithm, hex] = /^blobs\/([^/]+)\/([^/]+)$/.exec(name) ?? []
  const digest = `${String(algorithm)}:${String(hex)}`
  return isDigest(digest) ? digest : undefined
}

export function contentsBytes(contents: Contents, createdAt: Date): Buffer {
  return Buffer.from(JSON.stringify({ version: VERSION, createdAt: createdAt.toISOString(), ...contents }))
}

/**
 * The layout's own index: every tag as `name:tag`, and the manifests that no tag and no index refers to.
 *
 * @param named whether an index of that repository refers to that manifest
 */
export function indexBytes(
  { repositories, lost }: Contents,
  named: (name: RepositoryName, digest: Digest) => boolean,
): Buffer {
  const gone = new Set(lost)
  const manifests = repositories.flatMap(({ name, tags, manifests }) => {
    const byDigest = new Map(manifests.map((it) => [it.digest, it]))
    const tagged = new Set(tags.map(({ digest }) => digest))
    const listed = tags.flatMap(({ tag, digest }) => {
      const manifest = byDigest.get(digest)
      if (manifest === undefined || gone.has(digest)) return []
      return [{ ...manifest, annotations: { 'org.opencontainers.image.ref.name': `${name}:${tag}` } }]
    })
    const others = manifests.filter(
      ({ digest }) => !tagged.has(digest) && !gone.has(digest) && !named(name, digest),
    )
    return [...listed, ...others]
  })
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests }))
}
