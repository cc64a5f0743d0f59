/**
 * What an event tells of the request it came of. Never `Authorization`, never a query.
 */
import type { Cause } from '../registry/events.ts'
import type { Exchange } from './exchange.ts'

export function causeOf({ id, method, remote, request }: Exchange): Cause {
  const { host, 'user-agent': useragent } = request.headers
  const { remotePort: port } = request.socket
  const address = remote?.includes(':') ? `[${remote}]` : remote
  return {
    id,
    addr: address === undefined || port === undefined ? address : `${address}:${port}`,
    host,
    method,
    useragent,
  }
}
