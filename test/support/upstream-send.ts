/**
 * Answers of the simulated registry, and the ways in which they can be spoilt.
 *
 * A body is sent in slices of the one buffer that holds it, as fast as the socket takes them, so that many
 * clients of one large blob cost no memory.
 */
import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { LogEntry, RequestLog } from './upstream-log.ts'
import type { Behaviour } from './upstream-rules.ts'

const SLICE = 256 * 1024

/** One request in the hands of its handler. */
export interface Call {
  readonly entry: LogEntry
  readonly log: RequestLog
  readonly response: ServerResponse
  readonly behaviour: Behaviour
}

export type HeaderMap = Record<string, string | number | string[] | undefined>

export function sendJson(call: Call, status: number, value: unknown, headers: HeaderMap = {}): void {
  sendSmall(call, status, JSON.stringify(value), { 'content-type': 'application/json', ...headers })
}

export function sendError(call: Call, status: number, code: string, headers: HeaderMap = {}): void {
  const message = code.toLowerCase().replaceAll('_', ' ')
  sendJson(call, status, { errors: [{ code, message, detail: null }] }, headers)
}

export function sendSmall(call: Call, status: number, text: string, headers: HeaderMap): void {
  const bytes = Buffer.from(text)
  writeHead(call, status, { 'content-length': bytes.length, ...headers })
  if (call.entry.method === 'HEAD') {
    call.response.end()
    return
  }
  call.entry.bytesSent += bytes.length
  call.response.end(bytes)
}

/** The answer of a rule with a `status`. */
export function sendStatus(call: Call, status: number): void {
  const { body = 'json', retryAfter, code } = call.behaviour
  const headers: HeaderMap = retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) }
  if (body === 'json') sendError(call, status, code ?? CODES[status] ?? 'UNKNOWN', headers)
  else if (body === 'empty') sendSmall(call, status, '', headers)
  else if (body === 'html')
    sendSmall(call, status, PAGE, { ...headers, 'content-type': 'text/html; charset=utf-8' })
  else sendSmall(call, status, body.text, { ...headers, 'content-type': body.type })
}

const CODES: Record<number, string> = {
  401: 'UNAUTHORIZED',
  403: 'DENIED',
  404: 'MANIFEST_UNKNOWN',
  405: 'UNSUPPORTED',
  429: 'TOOMANYREQUESTS',
  503: 'UNAVAILABLE',
}

const PAGE = '<!doctype html><title>Sign in</title><h1>Welcome to the hotel network</h1>\n'

export function writeHead(call: Call, status: number, headers: HeaderMap): void {
  call.entry.status = status
  const all: HeaderMap = {
    'docker-distribution-api-version': 'registry/2.0',
    ...headers,
    ...call.behaviour.headers,
  }
  call.response.statusCode = status
  for (const [name, value] of Object.entries(all)) {
    if (value !== undefined) call.response.setHeader(name, value)
  }
}

/**
 * Content with `Range`, `HEAD` and everything a rule may do to a body. `bytes` is the whole blob or manifest.
 */
export async function sendContent(call: Call, bytes: Buffer, headers: HeaderMap): Promise<void> {
  const { behaviour, entry, response } = call
  const whole = behaviour.replace ?? bytes
  const range = behaviour.ignoreRange ? undefined : parseRange(entry.headers.range, whole.length)
  if (range === 'unsatisfiable') {
    sendError(call, 416, 'RANGE_INVALID', { 'content-range': `bytes */${whole.length}` })
    return
  }
  const { start, end } = range ?? { start: 0, end: whole.length }
  const body = whole.subarray(start, end)
  const contentRange = behaviour.contentRange ?? `bytes ${start}-${end - 1}/${whole.length}`
  const declared = behaviour.how === 'shortContentLength' ? behaviour.dropAfterBytes : body.length
  const chunked = behaviour.noContentLength === true || behaviour.how === 'cleanChunkEnd'
  writeHead(call, range === undefined ? 200 : 206, {
    'accept-ranges': 'bytes',
    ...headers,
    ...(chunked ? {} : { 'content-length': declared }),
    ...(range === undefined || contentRange === 'none' ? {} : { 'content-range': contentRange }),
    ...(behaviour.contentType === undefined ? {} : { 'content-type': behaviour.contentType }),
    ...digestHeader(headers, behaviour.digestHeader),
  })
  if (entry.method === 'HEAD') {
    response.end()
    return
  }
  response.flushHeaders()
  const corruptAt = behaviour.corrupt === 'tail' ? whole.length - 1 : (behaviour.corrupt ?? -1)
  await pump(call, body, corruptAt - start)
}

function digestHeader(headers: HeaderMap, override: string | undefined): HeaderMap {
  if (override === undefined || headers['docker-content-digest'] === undefined) return {}
  return { 'docker-content-digest': override === 'none' ? undefined : override }
}

async function pump(call: Call, body: Buffer, corruptAt: number): Promise<void> {
  const { behaviour, response, entry } = call
  const hangAt =
    behaviour.hang === 'midBody' ? (behaviour.hangAfterBytes ?? Math.floor(body.length / 2)) : Infinity
  const stopAt = Math.min(body.length, hangAt, behaviour.dropAfterBytes ?? Infinity)
  const startedAt = performance.now()
  for (let at = 0; at < stopAt;) {
    let size = Math.min(SLICE, stopAt - at)
    if (behaviour.bytesPerSecond !== undefined) {
      const due = Math.floor(((performance.now() - startedAt) / 1000) * behaviour.bytesPerSecond) - at
      if (due < Math.min(size, 1024)) {
        await sleep(10)
        if (response.destroyed) return
        continue
      }
      size = Math.min(size, due)
    }
    const slice = spoilt(body.subarray(at, at + size), corruptAt - at)
    at += size
    entry.bytesSent += size
    if (!response.write(slice)) await drained(response)
    call.log.changed()
    if (response.destroyed) return
  }
  if (stopAt === hangAt) return // the request's close ends it
  if (behaviour.dropAfterBytes === undefined || stopAt === body.length) {
    response.end()
    return
  }
  await breakOff(response, behaviour.how ?? 'rst')
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
