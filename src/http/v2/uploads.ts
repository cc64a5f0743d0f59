/**
 * Blob upload endpoints …/blobs/uploads/ and …/blobs/uploads/<session>.
 *
 * The location of a session ends with the number of bytes received when it was given, so that it shows which answer the
 * client got last; no number means 0. An older location stays valid, and `Range` tells the session's true offset.
 * A body is requested and read only once the client, the repository and the offset have been checked.
 * Spec: distribution-spec § Pushing blobs, § Mounting.
 */
import type { OutgoingHttpHeaders } from 'node:http'
import { algorithmOf, parseDigest, type Digest, type DigestAlgorithm } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { parseRepositoryName, type RepositoryName } from '../../oci/reference.ts'
import type { RouteTo } from '../routes.ts'
import type { PushTarget, UploadSession } from '../../registry/local/push-target.ts'
import { streamBody } from './request-body.ts'
import type { Exchange } from '../exchange.ts'
import type { Services } from '../services.ts'
import { pushTarget } from './push-access.ts'

/** The specification's form, and that of RFC 9110 § 14.4. */
const CONTENT_RANGE = /^(?:bytes )?(\d{1,15})-(\d{1,15})(?:\/(?:\d+|\*))?$/

/** Session id, and the offset in its location. */
const TOLD = /^([0-9A-Za-z]+\.[0-9A-Za-z_-]+)\.(\d{1,15})$/

/** POST: starts a session, or takes a whole blob, or mounts one of another repository. */
export async function serveUploads(
  exchange: Exchange,
  route: RouteTo<'uploads'>,
  services: Services,
): Promise<void> {
  const target = await pushTarget(exchange, route, services)
  const { query } = route
  const mounted = query.get('mount')
  if (mounted !== null) {
    const digest = parseDigest(mounted)
    const from = query.get('from')
    if (await target.mount(digest, from === null ? undefined : parseRepositoryName(from))) {
      sendBlob(exchange, target.name, digest)
      return
    }
  }
  if (query.has('digest')) {
    const digest = digestIn(query)
    await takeWhole(exchange, target, digest)
    sendBlob(exchange, target.name, digest)
    return
  }
  await using session = await target.startUpload(algorithmIn(query))
  exchange.sendEmpty(202, { ...position(target, session), 'Content-Length': 0 })
}

export async function serveUpload(
  exchange: Exchange,
  route: RouteTo<'upload'>,
  services: Services,
): Promise<void> {
  const target = await pushTarget(exchange, route, services)
  const { id, told } = toldIn(route.session)
  if (exchange.method === 'PUT') {
    const digest = digestIn(route.query)
    exchange.fields.digest = digest
    if (await finish(exchange, target, { id, told, digest })) sendBlob(exchange, target.name, digest)
    return
  }
  await using session = await target.openUpload(id)
  switch (exchange.method) {
    case 'PATCH':
      if (!(await placed(exchange, target, session, () => append(exchange, session, told)))) return
      exchange.sendEmpty(202, { ...position(target, session), 'Content-Length': 0 })
      return
    case 'DELETE':
      await session.cancel()
      exchange.sendEmpty(204, {})
      return
    default:
      exchange.sendEmpty(204, position(target, session))
  }
}

/**
 * Idempotent: the client may have lost the answer to its first PUT.
 *
 * @returns false when it was refused, with the offset at which the client has to continue
 */
async function finish(
  exchange: Exchange,
  target: PushTarget,
  { id, told, digest }: { id: string; told: number; digest: Digest },
): Promise<boolean> {
  try {
    await using session = await target.openUpload(id)
    return await placed(exchange, target, session, async () => {
      if (exchange.hasBody) await append(exchange, session, told)
      await session.finish(digest, exchange.hasBody ? 0 : told)
    })
  } catch (error) {
    const over = error instanceof OciError && error.code === 'BLOB_UPLOAD_UNKNOWN'
    if (!over || !(await target.finishedUpload(id, digest))) throw error
  }
  await readAway(exchange)
  return true
}

/** Drops a body whose bytes are here already; a client that waits for `100 Continue` is answered without it. */
async function readAway(exchange: Exchange): Promise<void> {
  if (!exchange.hasBody || exchange.request.complete) return
  if (exchange.header('expect') !== undefined) {
    exchange.endConnection()
    return
  }
  const chunks = streamBody(exchange)
  while ((await chunks.next()).done !== true);
}

/** Monolithic upload in a session whose id no client learns: a failure leaves nothing behind. */
async function takeWhole(exchange: Exchange, target: PushTarget, digest: Digest): Promise<void> {
  exchange.fields.digest = digest
  const session = await target.startUpload(algorithmOf(digest))
  try {
    await using _session = session
    if (exchange.hasBody)
      await session.append(streamBody(exchange), undefined, { length: lengthOf(exchange) })
    await session.finish(digest)
  } catch (error) {
    await giveUp(target, session.id)
    throw error
  }
}

/** Cancels the session even if its bytes were kept for a retry. Never throws: what remains of it is swept. */
async function giveUp(target: PushTarget, id: string): Promise<void> {
  try {
    await using session = await target.openUpload(id)
    await session.cancel()
  } catch {
    // The session has ended already.
  }
}

/** @returns false when it was refused, with the offset at which the client has to continue */
async function placed(
  exchange: Exchange,
  target: PushTarget,
  session: UploadSession,
  change: () => Promise<void>,
): Promise<boolean> {
  try {
    await change()
    return true
  } catch (error) {
    const misplaced =
      error instanceof OciError && (error.code === 'RANGE_INVALID' || error.code === 'SIZE_INVALID')
    if (!misplaced) throw error
    exchange.fail(error, position(target, session))
    return false
  }
}

function append(exchange: Exchange, session: UploadSession, told: number): Promise<void> {
  return session.append(streamBody(exchange), rangeOf(exchange), { told, length: lengthOf(exchange) })
}

function lengthOf(exchange: Exchange): number | undefined {
  const length = exchange.header('content-length')
  return length === undefined ? undefined : Number(length)
}

function toldIn(session: string): { id: string; told: number } {
  const [, id = session, told = '0'] = TOLD.exec(session) ?? []
  return { id, told: Number(told) }
}

/** @throws OciError BLOB_UPLOAD_INVALID, RANGE_INVALID, or SIZE_INVALID when the body has another length */
function rangeOf(exchange: Exchange): { first: number; last: number } | undefined {
  const header = exchange.header('content-range')
  if (header === undefined) return undefined
  const [, from, to] = CONTENT_RANGE.exec(header) ?? []
  if (from === undefined || to === undefined) {
    throw new OciError('BLOB_UPLOAD_INVALID', { contentRange: header.slice(0, 100) })
  }
  const range = { first: Number(from), last: Number(to) }
  if (range.last < range.first) throw new OciError('RANGE_INVALID', range)
  const length = exchange.header('content-length')
  if (length !== undefined && Number(length) !== range.last - range.first + 1) {
    throw new OciError('SIZE_INVALID', { ...range, contentLength: Number(length) })
  }
  return range
}

/** @throws OciError DIGEST_INVALID */
function digestIn(query: URLSearchParams): Digest {
  const digest = query.get('digest')
  if (digest !== null) return parseDigest(digest)
  throw new OciError('DIGEST_INVALID', undefined, { message: 'the digest parameter is missing' })
}

/** @throws OciError DIGEST_INVALID */
function algorithmIn(query: URLSearchParams): DigestAlgorithm | undefined {
  const algorithm = query.get('digest-algorithm')
  if (algorithm === null || algorithm === 'sha256' || algorithm === 'sha512') return algorithm ?? undefined
  throw new OciError('DIGEST_INVALID', { algorithm: algorithm.slice(0, 100) })
}

/** The specification's `Range` cannot tell no byte from one byte. */
function position({ name }: PushTarget, { id, offset }: UploadSession): OutgoingHttpHeaders {
  return {
    Location: `/v2/${name}/blobs/uploads/${id}${offset === 0 ? '' : `.${offset}`}`,
    Range: `0-${Math.max(0, offset - 1)}`,
    'Docker-Upload-UUID': id,
  }
}

function sendBlob(exchange: Exchange, name: RepositoryName, digest: Digest): void {
  exchange.fields.digest = digest
  exchange.sendEmpty(201, {
    Location: `/v2/${name}/blobs/${digest}`,
    'Docker-Content-Digest': digest,
    'Content-Length': 0,
  })
}
