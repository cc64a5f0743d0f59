/**
 * Id of an upload session; it tells by itself that this server issued it, for which repository, and when.
 *
 * So a session without bytes needs no storage, and yet outlives the process. The checksum distinguishes an issued id
 * from an invented one, and from one of another repository; it is no secret, because a client that may push to a
 * repository may start sessions there anyway.
 */
import { createHash, randomBytes } from 'node:crypto'
import type { DigestAlgorithm } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'

/** Distinguishes this process from others that could share its store one day. */
const REPLICA = '0'

const FORM = /^0\.([0-9A-Za-z_-]{22})$/

const SECONDS_LENGTH = 4
const RANDOM_LENGTH = 5
const NONCE_LENGTH = SECONDS_LENGTH + RANDOM_LENGTH
const LENGTH = 16

interface NewSession {
  readonly algorithm: DigestAlgorithm
  /** Unix time in ms, to the second. */
  readonly startedAt: number
}

export function newSessionId(repository: RepositoryName, { algorithm, startedAt }: NewSession): string {
  const nonce = randomBytes(NONCE_LENGTH)
  nonce.writeUInt32BE(Math.floor(startedAt / 1000), 0)
  const last = nonce.readUInt8(NONCE_LENGTH - 1)
  nonce.writeUInt8((last & ~1) | (algorithm === 'sha512' ? 1 : 0), NONCE_LENGTH - 1)
  return `${REPLICA}.${Buffer.concat([nonce, checksum(repository, nonce)]).toString('base64url')}`
}

/** @returns undefined when the id was not issued for that repository */
export function parseSessionId(session: string, repository: RepositoryName): NewSession | undefined {
  const [, text] = FORM.exec(session) ?? []
  if (text === undefined) return undefined
  const bytes = Buffer.from(text, 'base64url')
  const nonce = bytes.subarray(0, NONCE_LENGTH)
  if (bytes.toString('base64url') !== text) return undefined
  if (!bytes.subarray(NONCE_LENGTH).equals(checksum(repository, nonce))) return undefined
  const sha512 = (nonce.readUInt8(NONCE_LENGTH - 1) & 1) === 1
  return { algorithm: sha512 ? 'sha512' : 'sha256', startedAt: nonce.readUInt32BE(0) * 1000 }
}

function checksum(repository: RepositoryName, nonce: Buffer): Buffer {
  const hash = createHash('sha256').update(nonce).update(repository).digest()
  return hash.subarray(0, LENGTH - NONCE_LENGTH)
}
