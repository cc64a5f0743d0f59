/**
 * A request's body, read as a whole.
 */
import type { OciError } from '../oci/errors.ts'
import type { Exchange } from './exchange.ts'

/**
 * Asks for it first where the client waits to be asked: whoever calls this has decided to take it.
 *
 * @throws `tooLarge` as soon as it is clear, before anything is read where the head says so; an error when the
 *   client leaves before the end
 */
export async function readBody(exchange: Exchange, maxBytes: number, tooLarge: OciError): Promise<Buffer> {
  const { request } = exchange
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge
  exchange.welcomeBody()
  const chunks: Buffer[] = []
  let size = 0
  // Without `destroyOnReturn: false` leaving the loop would close the connection before the answer.
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > maxBytes) throw tooLarge
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}
