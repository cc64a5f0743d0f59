/** Readers of a request's body: whole, or piece by piece. */
import { OciError } from '../../oci/errors.ts'
import type { Exchange } from '../exchange.ts'

/**
 * Sends `100 Continue` first where the client waits for it.
 *
 * @throws `tooLarge` as soon as that is certain, before any read where the head says so; an error when the client
 *   leaves before the end
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
 * Reads with backpressure. A caller that stops before the end can still answer.
 *
 * @throws when the client leaves before the end; OciError BAD_REQUEST where the chunks are too small
 */
export async function* streamBody(exchange: Exchange): AsyncGenerator<Buffer, void, undefined> {
  exchange.sendContinue()
  // Without the option the end of the loop would close the connection before the answer.
  const pieces = exchange.request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>
  yield* pieces
  if (exchange.chunksAreTooSmall) {
    throw new OciError('BAD_REQUEST', { reason: 'the chunks of its body are too small' })
  }
}
