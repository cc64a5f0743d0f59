/**
 * Bodies of the simulated registry, and the ways in which they can be spoilt.
 *
 * A body is sent in slices of the one buffer that holds it, as fast as the socket takes them, so that many
 * clients of one large blob cost no memory.
 */
import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { brotliCompressSync, constants, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { sendError, writeHead, type Call, type HeaderMap } from './upstream-send.ts'
import type { Behaviour } from './upstream-rules.ts'

const SLICE = 256 * 1024
const BOUNDARY = 'simulated-boundary'

const ENCODERS = {
  gzip: gzipSync,
  'x-gzip': gzipSync,
  deflate: deflateSync,
  // What it takes by default it takes seconds for.
  br: (bytes: Buffer) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } }),
  zstd: zstdCompressSync,
}

interface Part {
  readonly start: number
  /** Exclusive. */
  readonly end: number
  readonly size: number
}

/**
 * Content with `Range`, `HEAD` and everything a rule may do to a body. `bytes` is the whole blob or manifest.
 */
export async function sendContent(call: Call, bytes: Buffer, headers: HeaderMap): Promise<void> {
  const { behaviour, entry, response } = call
  const whole = represented(bytes, behaviour)
  const { range: wanted } = entry.headers
  const ignored = behaviour.ignoreRange === true || behaviour.encoding !== undefined
  const range = ignored ? undefined : parseRange(wanted, whole.length)
  const refusesOpen = behaviour.range416Open === true && /^bytes=\d+-$/.test(wanted ?? '')
  if (range === 'unsatisfiable' || refusesOpen) {
    sendError(call, 416, 'RANGE_INVALID', { 'content-range': `bytes */${whole.length}` })
    return
  }
  const part: Part = { start: 0, end: whole.length, size: whole.length, ...range }
  const multipart = behaviour.multipartAlways === true && range !== undefined
  const body = multipart ? inParts(whole, part) : whole.subarray(part.start, part.end)
  const chunked = isChunked(behaviour)
  response.useChunkedEncodingByDefault = chunked
  writeHead(call, range === undefined ? 200 : 206, {
    'accept-ranges': 'bytes',
    ...headers,
    ...(chunked || isClosed(behaviour) ? {} : { 'content-length': declaredLength(behaviour, body) }),
    // Node refuses to announce them for a body that will not come.
    ...(behaviour.framing === 'trailers' && entry.method !== 'HEAD' ? { trailer: 'x-checksum' } : {}),
    ...(range === undefined || multipart ? {} : contentRange(behaviour, part)),
    ...(behaviour.encoding === undefined ? {} : { 'content-encoding': behaviour.encoding }),
    ...(multipart ? { 'content-type': `multipart/byteranges; boundary=${BOUNDARY}` } : {}),
    ...(behaviour.contentType === undefined ? {} : { 'content-type': behaviour.contentType }),
    ...digestHeader(headers, behaviour.digestHeader),
  })
  if (entry.method === 'HEAD') {
    response.end()
    return
  }
  response.flushHeaders()
  if (behaviour.ttfbMs !== undefined) await sleep(behaviour.ttfbMs)
  await pump(call, body, corruptAt(behaviour, part) - part.start)
}

/** What is sent of a blob, before any range is taken of it. */
function represented(bytes: Buffer, behaviour: Behaviour): Buffer {
  const { replace, swapBodies, truncateButPadZeros, encoding } = behaviour
  let sent = typeof replace === 'function' ? replace(bytes) : (replace ?? bytes)
  if (swapBodies === true) sent = Buffer.from(sent).reverse()
  if (truncateButPadZeros === true) sent = Buffer.from(sent).fill(0, Math.floor(sent.length / 2))
  return encoding === undefined ? sent : ENCODERS[encoding](sent)
}

function inParts(whole: Buffer, { start, end, size }: Part): Buffer {
  const head = `--${BOUNDARY}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ${start}-${end - 1}/${size}\r\n\r\n`
  return Buffer.concat([
    Buffer.from(head),
    whole.subarray(start, end),
    Buffer.from(`\r\n--${BOUNDARY}--\r\n`),
  ])
}

function isChunked({ noContentLength, how, infinite, framing }: Behaviour): boolean {
  return (
    noContentLength === true ||
    how === 'cleanChunkEnd' ||
    infinite === true ||
    framing === 'chunked' ||
    framing === 'trailers'
  )
}

function isClosed({ framing }: Behaviour): boolean {
  return framing === 'close' || framing === 'http10'
}

function declaredLength({ how, dropAfterBytes, wrongContentLength = 0 }: Behaviour, body: Buffer): number {
  const right = how === 'shortContentLength' ? (dropAfterBytes ?? 0) : body.length
  return Math.max(right + wrongContentLength, 0)
}

function contentRange({ contentRange: given, starTotal }: Behaviour, part: Part): HeaderMap {
  const { start, end, size } = part
  const right = `bytes ${start}-${end - 1}/${starTotal === true ? '*' : size}`
  const value = typeof given === 'function' ? given(part) : (given ?? right)
  return value === 'none' ? {} : { 'content-range': value }
}

function digestHeader(headers: HeaderMap, override: string | undefined): HeaderMap {
  if (override === undefined || headers['docker-content-digest'] === undefined) return {}
  return { 'docker-content-digest': override === 'none' ? undefined : override }
}

/** Offset in the blob; -1: nowhere. */
function corruptAt({ corrupt, corruptOnlyOnResume }: Behaviour, { start, size }: Part): number {
  if (corruptOnlyOnResume === true) return start > 0 ? size - 1 : -1
  return corrupt === 'tail' ? size - 1 : (corrupt ?? -1)
}

async function pump(call: Call, body: Buffer, corruptAt: number): Promise<void> {
  const { behaviour, response } = call
  const hangAt =
    behaviour.hang === 'midBody' ? (behaviour.hangAfterBytes ?? Math.floor(body.length / 2)) : Infinity
  const stopAt = Math.min(body.length, hangAt, behaviour.dropAfterBytes ?? Infinity)
  const pace = new Pace(behaviour)
  for (let at = 0; at < stopAt;) {
    const size = pace.allows(at, Math.min(SLICE, stopAt - at))
    if (size === 0) {
      await sleep(10)
      if (response.destroyed) return
      continue
    }
    if (!(await write(call, spoilt(body.subarray(at, at + size), corruptAt - at)))) return
    at += size
  }
  if (stopAt === hangAt) return // the request's close ends it
  while (behaviour.infinite === true && stopAt === body.length) {
    if (!(await write(call, MORE))) return
  }
  if (behaviour.dropAfterBytes !== undefined && stopAt < body.length) {
    await breakOff(response, behaviour.how ?? 'rst')
  } else if ((behaviour.wrongContentLength ?? 0) !== 0) {
    await breakOff(response, 'fin')
  } else {
    if (behaviour.framing === 'trailers') response.addTrailers({ 'x-checksum': 'none' })
    response.end()
  }
}

const MORE = Buffer.alloc(SLICE)

/** @returns false when nobody takes it any more */
async function write(call: Call, slice: Buffer): Promise<boolean> {
  const { entry, response } = call
  entry.bytesSent += slice.length
  if (!response.write(slice)) await drained(response)
  call.log.changed()
  return !response.destroyed
}

/** How much may have left by now. */
class Pace {
  readonly #startedAt = performance.now()
  readonly #bytesPerSecond: number
  /** So much comes at once. */
  readonly #freely: number

  constructor({ bytesPerSecond, slowloris }: Behaviour) {
    const trickles = slowloris?.in === 'body'
    this.#freely = trickles ? (slowloris.afterBytes ?? 0) : 0
    this.#bytesPerSecond = trickles ? 1000 / slowloris.everyMs : (bytesPerSecond ?? Infinity)
  }

  allows(at: number, wanted: number): number {
    if (at < this.#freely) return Math.min(wanted, this.#freely - at)
    if (this.#bytesPerSecond === Infinity) return wanted
    const due = this.#freely + ((performance.now() - this.#startedAt) / 1000) * this.#bytesPerSecond
    const ready = Math.floor(due) - at
    // Not in smaller pieces than a turn of the clock brings.
    return ready < Math.min(wanted, 1024, this.#bytesPerSecond / 100) ? 0 : Math.min(wanted, ready)
  }
}

function spoilt(slice: Buffer, at: number): Buffer {
  if (at < 0 || at >= slice.length) return slice
  const copy = Buffer.from(slice)
  copy[at] = (copy[at] ?? 0) ^ 0xff
  return copy
}

async function breakOff(response: ServerResponse, how: NonNullable<Behaviour['how']>): Promise<void> {
  if (how === 'cleanChunkEnd' || how === 'shortContentLength') {
    response.end()
    return
  }
  await drained(response)
  if (how === 'rst') response.socket?.resetAndDestroy()
  else response.socket?.end()
}

/** Until the socket has taken everything, or is gone. */
async function drained(response: ServerResponse): Promise<void> {
  if (response.destroyed || !response.writableNeedDrain) return
  await new Promise<void>((resolve) => {
    const done = (): void => {
      response.off('drain', done)
      response.off('close', done)
      resolve()
    }
    response.on('drain', done)
    response.on('close', done)
  })
}

/** One part is all that anybody asks an upstream for; anything else is ignored, as RFC 9110 allows. */
function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '')
  if (match === null || (match[1] === '' && match[2] === '')) return undefined
  const [, first = '', last = ''] = match
  if (first === '') {
    const suffix = Math.min(Number(last), size)
    return suffix === 0 ? 'unsatisfiable' : { start: size - suffix, end: size }
  }
  const start = Number(first)
  const end = last === '' ? size : Math.min(Number(last) + 1, size)
  return start >= size || end <= start ? 'unsatisfiable' : { start, end }
}
