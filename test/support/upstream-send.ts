/**
 * Small answers of the simulated registry, and heads that can be spoilt.
 */
import type { ServerResponse } from 'node:http'
import type { LogEntry, RequestLog } from './upstream-log.ts'
import type { Behaviour, SpoiltHead } from './upstream-rules.ts'

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

export const PAGE = '<!doctype html><title>Sign in</title><h1>Welcome to the hotel network</h1>\n'

export function writeHead(call: Call, status: number, headers: HeaderMap): void {
  const { behaviour, entry, response } = call
  entry.status = status
  const all: HeaderMap = {
    'docker-distribution-api-version': 'registry/2.0',
    ...(behaviour.hugeHeaders === undefined ? {} : { 'x-huge': 'x'.repeat(behaviour.hugeHeaders) }),
    ...headers,
    ...behaviour.headers,
  }
  response.statusCode = status
  for (const [name, value] of Object.entries(all)) {
    if (value !== undefined) response.setHeader(name, value)
  }
  const { spoilHead, framing } = behaviour
  const how = framing === 'http10' ? 'http10' : spoilHead
  if (how !== undefined) rewriteHead(response, SPOILT[how])
}

const SPOILT: Record<SpoiltHead | 'http10', (head: string) => string> = {
  bareLf: (head) => head.replaceAll('\r\n', '\n'),
  invalidChars: (head) => head.replace(/\r\n\r\n$/, '\r\nX-Bad: a\x00b\x01\x7f\r\n\r\n'),
  noStatus: (head) => head.replace(/^HTTP\/1\.1 \d+ .*\r\n/, 'HTTP/1.1\r\n'),
  http10: (head) => head.replace('HTTP/1.1', 'HTTP/1.0'),
}

/** Node writes no bad heads; the text that it is about to send can be had, though. */
function rewriteHead(response: ServerResponse, rewrite: (head: string) => string): void {
  response.writeHead(response.statusCode)
  const written = response as unknown as { _header: string }
  written._header = rewrite(written._header)
}
