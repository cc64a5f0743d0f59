/** Validation of a pushed manifest: refuses malformed ones, schema 1, and a `Content-Type` that does not match. */
import { OciError } from '../../oci/errors.ts'
import { parseManifest, type ManifestContent } from '../../oci/manifest.ts'

/** @throws OciError MANIFEST_INVALID, upon which some clients push in another format */
export function parsePushedManifest(bytes: Buffer, declared: string | undefined): ManifestContent {
  const content = parseManifest(bytes, declared)
  assertTakable(content)
  assertDeclared(content, declared)
  return content
}

/**
 * The client of a schema 1 manifest knows it by the digest of its signed part, which is not that of its bytes: the
 * registry could store it only under a digest that no client requests. Its layers have a form that is not parsed here.
 */
function assertTakable({ kind, mediaType, ...named }: ManifestContent): void {
  const { config, subject, layers, manifests } = named
  if ([config, subject, ...layers, ...manifests].some((it) => it !== undefined && it.size === undefined)) {
    throw new OciError('MANIFEST_INVALID', { reason: 'malformed size' })
  }
  if (kind !== 'schema1') return
  throw new OciError(
    'MANIFEST_INVALID',
    { mediaType },
    {
      message:
        'manifests of Docker schema 1 are not taken, for their digest is not that of their bytes; ' +
        'push the image as OCI, or as Docker schema 2',
    },
  )
}

function assertDeclared(content: ManifestContent, declared: string | undefined): void {
  const bare = declared?.split(';')[0]?.trim().toLowerCase()
  if (bare === undefined || bare === '' || bare === content.mediaType.toLowerCase()) return
  throw new OciError(
    'MANIFEST_INVALID',
    { contentType: bare, mediaType: content.mediaType },
    { message: 'Content-Type and mediaType of the manifest differ' },
  )
}
