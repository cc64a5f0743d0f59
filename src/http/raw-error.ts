/**
 * Error responses written by hand, for connections on which there is no request to answer.
 *
 * Node hands over the bare socket; what is written must be a whole response, and the last one.
 */
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { OciError } from '../oci/errors.ts'

/** How long a peer may go on sending what nobody reads, so that it gets to read the answer. */
const LINGER_MS = 2000

/** What the parser's complaint means to a client; undefined: the connection itself is at fault. */
export function parserError(error: NodeJS.ErrnoException): OciError | undefined {
  if (error.code === 'HPE_HEADER_OVERFLOW') return new OciError('HEADERS_TOO_LARGE')
  if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') return new OciError('REQUEST_TIMEOUT')
  if (error.code?.startsWith('HPE_'))
    return new OciError('BAD_REQUEST', { reason: 'not HTTP' }, { cause: error })
  return undefined
}

export function sendRawError(socket: Duplex, error: OciError): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  const body = JSON.stringify(error)
  const head = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? ''}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Docker-Distribution-Api-Version: registry/2.0',
    ...(error.status === 405 ? [`Allow: ${(error.allow ?? []).join(', ')}`] : []),
    'Connection: close',
  ]
  socket.on('error', () => undefined)
  const linger = setTimeout(() => socket.destroy(), LINGER_MS).unref()
  socket.once('close', () => clearTimeout(linger))
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
}
