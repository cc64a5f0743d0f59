/**
 * Blob endpoint …/blobs/<digest>: GET and HEAD, whole, in one part, or in several; DELETE.
 *
 * The head is sent only when the first bytes are ready: until then every failure can still become an error body.
 * Spec: distribution-spec § Pulling blobs; RFC 9110 § 14.
 */
import { randomBytes } from 'node:crypto'
import type { OutgoingHttpHeaders } from 'node:http'
import { OciError } from '../../oci/errors.ts'
import type { RouteTo } from '../routes.ts'
import { BLOB_TYPE } from '../../registry/notifications/event.ts'
import type { BlobAnswer } from '../../registry/repository.ts'
import type { Exchange } from '../exchange.ts'
import { pulled, pullHeaders, resolveRepository } from './pull-headers.ts'
import type { Services } from '../services.ts'
import type { LinuxSyscalls } from '../transfer/linux-syscalls.ts'
import { ResponseWriter } from '../transfer/response-writer.ts'
import type { BufferPool } from '../transfer/buffer-pool.ts'
import { pump } from '../transfer/pump.ts'
import { headOf, pushTarget } from './push-access.ts'
import { sendFile, sendGrowing, takesFiles } from '../transfer/sendfile.ts'
import {
  contentRange,
  etagOf,
  matchesNone,
  parseRange,
  planRanges,
  rangeStillValid,
  wantsAll,
  type ByteRange,
} from '../transfer/range.ts'

export async function deleteBlob(
  exchange: Exchange,
  route: RouteTo<'blob'>,
  services: Services,
): Promise<void> {
  exchange.fields.digest = route.digest
  const target = await pushTarget(exchange, route, services)
  if (!(await target.deleteBlob(route.digest))) {
    throw new OciError('BLOB_UNKNOWN', { name: route.repository, digest: route.digest })
  }
  exchange.sendEmpty(202, { 'Content-Length': 0 })
}

export async function serveBlob(
  exchange: Exchange,
  route: RouteTo<'blob'>,
  services: Services,
): Promise<void> {
  const { registry, events, metrics, buffers, kernel, sendfile, accel } = services
  const { digest } = route
  exchange.fields.digest = digest
  const resolution = await resolveRepository(exchange, registry, route, headOf(exchange, services))
  const { repository } = resolution
  const unknown = (): OciError => new OciError('BLOB_UNKNOWN', { name: route.repository, digest })
  const identity = { 'Docker-Content-Digest': digest, ETag: etagOf(digest) }

  const unchanged = matchesNone(exchange.header('if-none-match'), digest)
  if (exchange.isHead || unchanged) {
    const head = await repository.headBlob(digest, exchange.signal)
    if (head !== undefined) {
      const headers = { ...pullHeaders(exchange, resolution, head), ...identity }
      if (unchanged) exchange.sendEmpty(304, headers)
      else exchange.sendEmpty(200, { ...headers, ...description(head.size) })
      return
    }
    // To a HEAD a damaged blob is absent, so that a push repairs it; a client that pulls it gets the error below.
    if (exchange.isHead) throw unknown()
  }

  const valid = rangeStillValid(exchange.header('if-range'), digest)
  const specs = valid ? parseRange(exchange.header('range')) : undefined
  const ranged = specs !== undefined && !wantsAll(specs)
  await using answer = await repository.blob(digest, { ranged, signal: exchange.signal })
  if (answer === undefined) throw unknown()
  const headers = { ...pullHeaders(exchange, resolution, answer), ...identity }
  metrics.pulls.inc({ upstream: repository.registry, kind: 'blob', cache: answer.cache })

  const { size } = answer
  const sending = { exchange, answer, buffers, kernel, sendfile }
  const tell = (): void =>
    pulled(exchange, events, resolution, { kind: 'blob', digest, mediaType: BLOB_TYPE, size })
  if (size === undefined) {
    await sendPart(sending, 200, { ...headers, 'Content-Type': BLOB_TYPE }, undefined, undefined)
    tell()
    return
  }
  const plan = planRanges(specs, size)
  if (plan.kind === 'whole' || plan.kind === 'single') {
    const redirect = await accel?.redirect(exchange, answer)
    if (redirect !== undefined) {
      exchange.fields.accel = true
      // nginx sees the request's range as well, and sets the length itself.
      const told = { 'Content-Type': BLOB_TYPE, 'Content-Length': 0, 'X-Accel-Redirect': redirect }
      // nginx adds Accept-Ranges to a whole file; set here as well it would be sent twice.
      const parts = plan.kind === 'single' ? { 'Accept-Ranges': 'bytes' } : {}
      exchange.sendEmpty(200, { ...headers, ...told, ...parts })
      if (plan.kind === 'whole' || plan.range.start === 0) tell()
      return
    }
  }
  switch (plan.kind) {
    case 'unsatisfiable':
      exchange.fail(new OciError('RANGE_INVALID', { size }), { 'Content-Range': `bytes */${size}` })
      return
    case 'whole':
      await sendPart(sending, 200, { ...headers, ...description(size) }, undefined, size)
      tell()
      return
    case 'single': {
      const { range } = plan
      const length = range.end - range.start
      await sendPart(
        sending,
        206,
        { ...headers, ...description(length), 'Content-Range': contentRange(range, size) },
        // A range of the whole blob is served like the blob: its last bytes are sent only once they are verified.
        length === size ? undefined : range,
        length,
      )
      // A client that pulls a blob in parts requests its first byte once: that part counts as the pull.
      if (range.start === 0) tell()
      return
    }
    case 'multipart':
      await sendParts(sending, headers, plan.ranges, size)
      if (plan.ranges.some(({ start }) => start === 0)) tell()
  }
}

interface Sending {
  readonly exchange: Exchange
  readonly answer: BlobAnswer
  readonly buffers: BufferPool
  readonly kernel: LinuxSyscalls | undefined
  readonly sendfile: boolean
}

function description(length: number): OutgoingHttpHeaders {
  return { 'Content-Type': BLOB_TYPE, 'Content-Length': length, 'Accept-Ranges': 'bytes' }
}

async function sendPart(
  sending: Sending,
  status: number,
  headers: OutgoingHttpHeaders,
  range: ByteRange | undefined,
  length: number | undefined,
): Promise<void> {
  const { exchange, answer } = sending
  noteUnverified(sending, range)
  await using source = await answer.open(range, exchange.signal)
  exchange.sendHead(status, headers)
  await pumpPart(sending, source, length)
  exchange.response.end()
}

/** RFC 9110 § 14.6: parts in the order of the request, none joined. */
async function sendParts(
  sending: Sending,
  headers: OutgoingHttpHeaders,
  ranges: readonly ByteRange[],
  size: number,
): Promise<void> {
  const { exchange, answer } = sending
  const boundary = randomBytes(16).toString('hex')
  const parts = ranges.map((range, index) => ({
    range,
    head: Buffer.from(
      `${index === 0 ? '' : '\r\n'}--${boundary}\r\nContent-Type: ${BLOB_TYPE}\r\n` +
        `Content-Range: ${contentRange(range, size)}\r\n\r\n`,
    ),
  }))
  const end = Buffer.from(`\r\n--${boundary}--\r\n`)
  const total = parts.reduce(
    (sum, { range, head }) => sum + head.length + range.end - range.start,
    end.length,
  )
  const send = async (text: Buffer): Promise<void> => {
    using outlet = new ResponseWriter(exchange.response, exchange.signal)
    await outlet.write(text)
    exchange.bytes += text.length
  }
  for (const { range, head } of parts) {
    noteUnverified(sending, range)
    await using source = await answer.open(range, exchange.signal)
    if (!exchange.response.headersSent) {
      exchange.sendHead(206, {
        ...headers,
        ...description(total),
        'Content-Type': `multipart/byteranges; boundary=${boundary}`,
      })
    }
    await send(head)
    await pumpPart(sending, source, range.end - range.start)
  }
  await send(end)
  exchange.response.end()
}

function noteUnverified({ exchange, answer }: Sending, range: ByteRange | undefined): void {
  if (range !== undefined && answer.unverified) exchange.fields.unverified = true
}

/** Up to this size one read and one write cost less than the queries to the kernel. */
const WORTH_SENDFILE = 1024 * 1024

async function pumpPart(
  { exchange, answer, buffers, kernel, sendfile }: Sending,
  source: Awaited<ReturnType<BlobAnswer['open']>>,
  length: number | undefined,
): Promise<void> {
  const { response, signal } = exchange
  const onBytes = (count: number): void => {
    exchange.bytes += count
  }
  const { stored, growing } = source
  let left = length
  if (kernel !== undefined && left !== undefined && left > WORTH_SENDFILE) {
    const copying = !sendfile || !takesFiles(response)
    const options = { kernel, pool: buffers, signal, onBytes, copying }
    if (!copying && (stored !== undefined || growing !== undefined)) exchange.fields.sendfile = true
    if (stored !== undefined) left -= await sendFile(stored, response, options)
    else if (growing !== undefined) left -= await sendGrowing(growing, left, response, options)
  }
  if (left === 0) return
  await pump(source, response, buffers, { length: left, growing: answer.unverified, signal, onBytes })
}
