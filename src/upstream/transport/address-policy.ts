/**
 * SSRF guard: which addresses may be dialled when an upstream's answer names a host, in a redirect or a token realm.
 *
 * The configured host itself is trusted, wherever it is. For any other, link-local is never dialled, loopback and
 * private addresses only when the configured upstream is there itself. Names are checked as they are resolved, and
 * exactly those addresses are dialled; literals are checked before. Behind an HTTP proxy it is the proxy that
 * resolves, so there only literals are checked.
 */
import { lookup as systemLookup } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { isLoopback } from '../../base/loopback.ts'

/** From far to near. `never`: no registry has such an address. */
type AddressClass = 'public' | 'private' | 'loopback' | 'never'

/** Ranges that ipaddr.js does not class, or classes otherwise; the first that holds an address counts. */
const EXCEPTIONS = Object.entries({
  // Metadata services, where clouds tell their machines secrets: Alibaba, Azure, AWS, Google.
  '100.100.100.200/32': 'never',
  '168.63.129.16/32': 'never',
  'fd00:ec2::254/128': 'never',
  'fd20:ce::254/128': 'never',
  // Reserved for benchmarks (RFC 2544), but networks use it as if it were private.
  '198.18.0.0/15': 'private',
  // The deprecated site-local addresses (RFC 3879).
  'fec0::/10': 'private',
  // These carry any IPv4 address: NAT64 but for its well-known prefix (RFC 8215), and IPv4-compatible (RFC 4291).
  '64:ff9b::/32': 'never',
  '::/127': 'loopback',
  '::/96': 'never',
} satisfies Record<string, AddressClass>).map(([network, addressClass]) => {
  return { network: ipaddr.parseCIDR(network), addressClass }
})

/** All other classes of ipaddr.js are never dialled: link-local, multicast, 6to4, Teredo, reserved. */
const CLASSES: Readonly<Partial<Record<string, AddressClass>>> = {
  unicast: 'public',
  private: 'private',
  carrierGradeNat: 'private',
  uniqueLocal: 'private',
  loopback: 'loopback',
  // 0.0.0.0 and :: reach this machine on Linux.
  unspecified: 'loopback',
}

/** NAT64 (RFC 6052) carries an IPv4 address in its last 32 bits. */
const NAT64 = ipaddr.parseCIDR('64:ff9b::/96')

const NEARNESS: Record<AddressClass, number> = { public: 0, private: 1, loopback: 2, never: 3 }

export function classifyAddress(address: string): AddressClass {
  const plain = ipaddr.process(address)
  const isNat64 = plain.kind() === 'ipv6' && plain.match(NAT64)
  const ip = isNat64 ? ipaddr.fromByteArray(plain.toByteArray().slice(12)) : plain
  const exception = EXCEPTIONS.find(({ network }) => network[0].kind() === ip.kind() && ip.match(network))
  return exception?.addressClass ?? CLASSES[ip.range()] ?? 'never'
}

/** The class of a host in a URL; a name is public until it is resolved, unless it means this machine. */
export function classifyHost(host: string): AddressClass {
  if (isIP(host) !== 0) return classifyAddress(host)
  return isLoopback(host) ? 'loopback' : 'public'
}

export class AddressRule {
  readonly #host: string
  readonly #resolve: LookupFunction
  /** How near the configured upstream is, as far as its addresses are known by now. */
  #reach: AddressClass

  /** @param resolve replaces the system's resolver */
  constructor(upstream: URL, resolve: LookupFunction = systemLookup) {
    this.#host = hostOf(upstream)
    this.#resolve = resolve
    this.#reach = classifyHost(this.#host)
  }

  /** False for a literal address that must not be dialled. A name is only checked by {@link lookup}. */
  allows(url: URL): boolean {
    const host = hostOf(url)
    return host === this.#host || isIP(host) === 0 || this.#allowsAddress(host)
  }

  /** The resolver for `net.connect`, which never calls it with literals. */
  readonly lookup: LookupFunction = (hostname, options, callback) => {
    this.#resolve(hostname, { ...options, all: true }, (error, found) => {
      const addresses = Array.isArray(found) ? found : []
      if (error !== null) {
        callback(error, [])
        return
      }
      const trusted = hostname.toLowerCase() === this.#host
      if (trusted) this.#learn(addresses.map(({ address }) => address))
      const allowed = trusted ? addresses : addresses.filter(({ address }) => this.#allowsAddress(address))
      const [first] = allowed
      if (first === undefined) callback(new AddressRefused(hostname), [])
      else if (options.all === true) callback(null, allowed)
      else callback(null, first.address, first.family)
    })
  }

  #learn(addresses: readonly string[]): void {
    for (const address of addresses) {
      const found = classifyAddress(address)
      if (NEARNESS[found] > NEARNESS[this.#reach]) this.#reach = found
    }
  }

  #allowsAddress(address: string): boolean {
    const found = classifyAddress(address)
    return found === 'public' || (found !== 'never' && NEARNESS[found] <= NEARNESS[this.#reach])
  }
}

export class AddressRefused extends Error {
  override readonly name = 'AddressRefused'

  constructor(hostname: string) {
    super(`${hostname} resolves to an address that this upstream may not send us to`)
  }
}

/** Lower case, without the brackets of an IPv6 literal. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, '').toLowerCase()
}
