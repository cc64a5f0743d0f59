/** Parser of a pushed manifest: what is malformed, of schema 1, or not what its `Content-Type` says is refused. */
import { OciError } from '../../oci/errors.ts'
import { parseManifest, type ManifestContent } from '../../oci/manifest.ts'

/** @throws OciError MANIFEST_INVALID, upon which a client that may choose tries another format */
export function parsePushedManifest(bytes: Buffer, declared: string | undefined): ManifestContent {
  const content = parseManifest(bytes, declared)
  assertTakable(content)
  assertDeclared(content, declared)
  return content
}

/**
 * The client that made a schema 1 manifest knows it by the digest of what was signed, which is not that of its bytes:
 * it could only be kept under a digest that nobody asks for. Its layers are written in a form that we do not read.
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
