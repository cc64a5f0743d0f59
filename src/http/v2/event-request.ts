/** Request part of an event, and the address for the event's URLs. Never `Authorization`, never a query. */
import { hostname } from 'node:os'
import type { Socket } from 'node:net'
import type { EventRequest } from '../../registry/notifications/event.ts'
import type { Exchange } from '../exchange.ts'
import { isLoopback } from '../../base/loopback.ts'
import { nameOf } from '../allowed-hosts.ts'

/** Limit of each header's text, because it waits in the index with every event. */
const LONGEST = 512

export function eventRequestOf({ id, method, remote, request }: Exchange): EventRequest {
  const { host, 'user-agent': useragent } = request.headers
  const { remotePort: port } = request.socket
  const address = remote?.includes(':') ? `[${remote}]` : remote
  return {
    id,
    addr: address === undefined || port === undefined ? address : `${address}:${port}`,
    host: host?.slice(0, LONGEST),
    method,
    useragent: useragent?.slice(0, LONGEST),
    reachedBy: reachedBy(host, request.socket),
  }
}

/** Cache of the latest result per connection: clients hardly ever change their `Host`. */
const told = new WeakMap<Socket, { readonly host: string | undefined; readonly by: string | undefined }>()

function reachedBy(host: string | undefined, socket: Socket): string | undefined {
  const before = told.get(socket)
  if (before !== undefined && before.host === host) return before.by
  const by = host !== undefined && isOurs(host, socket) ? host : authorityOf(socket)
  told.set(socket, { host, by })
  return by
}

/** A client can send any `Host`; events must carry only an address that is certainly this server's. */
function isOurs(host: string, socket: Socket): boolean {
  const { localAddress: address, localPort: port } = socket
  if (address === undefined) return false
  const named = /:(\d+)$/.exec(host)?.[1]
  if (Number(named ?? ('encrypted' in socket ? 443 : 80)) !== port) return false
  const name = nameOf(host).replace(/^\[|\]$/g, '')
  return (
    (isLoopback(name) && isLoopback(address)) || name === plain(address) || name === hostname().toLowerCase()
  )
}

function authorityOf({ localAddress: address, localPort: port }: Socket): string | undefined {
  if (address === undefined || port === undefined) return undefined
  const it = plain(address)
  return `${it.includes(':') ? `[${it}]` : it}:${port}`
}

/** IPv4 address in its usual form, also on an IPv6 socket. */
function plain(address: string): string {
  return address.replace(/^::ffff:/, '')
}
