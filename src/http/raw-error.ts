/**
 * Error responses written to the bare socket, for connections on which Node has parsed no request.
 *
 * Each is a whole response, and the connection's last.
 */
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { OciError } from '../oci/errors.ts'

/** Time for a client to read the answer while it still sends; its bytes are dropped. */
const LINGER_MS = 2000

/** The client's error behind a parser error; undefined: the connection itself failed. */
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
