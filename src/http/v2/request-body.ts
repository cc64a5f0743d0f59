/**
 * A request's body: read as a whole, or piece by piece.
 */
import { OciError } from '../../oci/errors.ts'
import type { Exchange } from '../exchange.ts'

/**
 * Asks for it first where the client waits to be asked: whoever calls this has decided to take it.
 *
 * @throws `tooLarge` as soon as it is clear, before anything is read where the head says so; an error when the
 *   client leaves before the end
 */
export async function readBody(exchange: Exchange, maxBytes: number, tooLarge: OciError): Promise<Buffer> {
  const { request } = exchange
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of streamBody(exchange)) {
    size += chunk.length
    if (size > maxBytes) throw tooLarge
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/**
 * No faster than it is taken. Whoever leaves before its end can still answer.
 *
 * @throws when the client leaves before the end; OciError BAD_REQUEST where it comes in chunks that are too small
 */
export async function* streamBody(exchange: Exchange): AsyncGenerator<Buffer, void, undefined> {
  exchange.welcomeBody()
  // Without the option leaving the loop would close the connection before the answer.
  const pieces = exchange.request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>
  yield* pieces
  if (exchange.chunksAreTooSmall) {
    throw new OciError('BAD_REQUEST', { reason: 'the chunks of its body are too small' })
  }
}
