/**
 * Identity of a partial file: the download of a digest, or an upload session.
 *
 * It is in the file's name and in its sidecar; a file in which the two differ counts for nothing.
 */
import { algorithmOf, hexOf, isDigest, type DigestAlgorithm } from '../../oci/digest.ts'
import { parseRepositoryName, type RepositoryName } from '../../oci/reference.ts'
import type { IngestIdentity, UploadIdentity } from './ingest.ts'

export type PartialIdentity = IngestIdentity | UploadIdentity

const SESSION = /^[0-9A-Za-z]+\.[0-9A-Za-z_-]{22}$/

/** Captures the base and the ending of a name that is ours. */
const OUR_NAMES =
  /^((?:sha256|sha512)-[0-9a-f]+\.[0-9a-f]+|upload-[0-9A-Za-z]+\.[0-9A-Za-z_-]{22})\.(part|json|json\.tmp|adopted)$/

export function parseFileName(name: string): { base: string; ending: string } | undefined {
  const [, base, ending] = OUR_NAMES.exec(name) ?? []
  return base === undefined || ending === undefined ? undefined : { base, ending }
}

export function isUpload(identity: PartialIdentity): identity is UploadIdentity {
  return 'session' in identity
}

/** One partial file is kept per key. */
export function keyOf(identity: PartialIdentity): string {
  return isUpload(identity) ? uploadKey(identity.session) : `${identity.digest} ${identity.source}`
}

export function uploadKey(session: string): string {
  return `upload ${session}`
}

/**
 * The name of a partial file without its ending.
 *
 * @param random tells several downloads of one digest apart; there is one file per session
 */
export function fileBase(identity: PartialIdentity, random: string): string {
  if (!isUpload(identity)) return `${downloadPrefix(identity)}${random}`
  if (!SESSION.test(identity.session)) throw new Error('not a session of ours')
  return uploadBase(identity)
}

export function isNamedFor(base: string, identity: PartialIdentity): boolean {
  return isUpload(identity) ? base === uploadBase(identity) : base.startsWith(downloadPrefix(identity))
}

/** The algorithm by which the file is hashed while it is written. */
export function hashedBy(identity: PartialIdentity): DigestAlgorithm {
  return isUpload(identity) ? identity.algorithm : algorithmOf(identity.digest)
}

/** Reads the members of a sidecar. @returns undefined unless they make an identity */
export function parseIdentity(members: Readonly<Record<string, unknown>>): PartialIdentity | undefined {
  const { source, digest, session, repository, algorithm } = members
  if (typeof source === 'string' && typeof digest === 'string') {
    return isDigest(digest) ? { source, digest } : undefined
  }
  if (typeof session !== 'string' || typeof repository !== 'string') return undefined
  if (algorithm !== 'sha256' && algorithm !== 'sha512') return undefined
  const name = parseName(repository)
  return name === undefined ? undefined : { session, repository: name, algorithm }
}

function downloadPrefix({ digest }: IngestIdentity): string {
  return `${algorithmOf(digest)}-${hexOf(digest)}.`
}

function uploadBase({ session }: UploadIdentity): string {
  return `upload-${session}`
}

function parseName(text: string): RepositoryName | undefined {
  try {
    return parseRepositoryName(text)
  } catch {
    return undefined
  }
}
