/**
 * Which addresses may be dialled when an upstream's answer names a host: a redirect, a token realm.
 *
 * The configured host itself is trusted, wherever it is. For any other, link-local is never dialled, loopback
 * and private ones only when the configured upstream is there itself. Names are checked as they are resolved,
 * and exactly those addresses are dialled; literals are checked before. Behind an HTTP proxy it is the proxy
 * that resolves, so there only literals are checked.
 */
import { lookup as systemLookup } from 'node:dns'
import { BlockList, isIP, type LookupFunction } from 'node:net'

/** From far to near. `never`: link-local, multicast, reserved, what clouds tell secrets at. */
type AddressClass = 'public' | 'private' | 'loopback' | 'never'

const SUBNETS: Record<Exclude<AddressClass, 'public'>, readonly (readonly [string, number])[]> = {
  // The first that holds an address says what it is.
  never: [
    ['169.254.0.0', 16],
    ['224.0.0.0', 3],
    ['fe80::', 10],
    ['ff00::', 8],
    // No registry has a place there: protocols of the IETF (and Oracle's metadata), what a network translates as it
    // likes (RFC 8215), and 6to4 (RFC 7526), which carry any IPv4 address.
    ['192.0.0.0', 24],
    ['64:ff9b:1::', 48],
    ['2002::', 16],
    // Clouds tell their machines secrets there: Alibaba, Azure, AWS, Google.
    ['100.100.100.200', 32],
    ['168.63.129.16', 32],
    ['fd00:ec2::254', 128],
    ['fd20:ce::254', 128],
  ],
  // 0.0.0.0 and :: reach this machine on Linux.
  loopback: [
    ['127.0.0.0', 8],
    ['0.0.0.0', 8],
    ['::1', 128],
    ['::', 128],
  ],
  private: [
    ['10.0.0.0', 8],
    ['172.16.0.0', 12],
    ['192.168.0.0', 16],
    ['100.64.0.0', 10],
    // Of benchmarks (RFC 2544), which networks use as if it were private.
    ['198.18.0.0', 15],
    ['fc00::', 7],
    ['fec0::', 10],
  ],
}

const LISTS = Object.entries(SUBNETS).map(([addressClass, subnets]) => {
  const list = new BlockList()
  for (const [network, bits] of subnets) {
    list.addSubnet(network, bits, network.includes(':') ? 'ipv6' : 'ipv4')
  }
  return { addressClass: addressClass as AddressClass, list }
})

const NEARNESS: Record<AddressClass, number> = { public: 0, private: 1, loopback: 2, never: 3 }

export function classifyAddress(address: string): AddressClass {
  // A zone (`fe80::1%eth0`) says nothing about the class, and BlockList does not take it.
  const plain = embeddedAddress(address.split('%')[0] ?? '')
  const family = isIP(plain) === 6 ? 'ipv6' : 'ipv4'
  return LISTS.find(({ list }) => list.check(plain, family))?.addressClass ?? 'public'
}

/** NAT64 (RFC 6052) carries an IPv4 address in its last 32 bits; mapped ones BlockList knows by itself. */
function embeddedAddress(address: string): string {
  if (!/^64:ff9b::/i.test(address)) return address
  const canonical = URL.parse(`http://[${address}]`)?.hostname.slice(1, -1) ?? ''
  const [high = 0, low = 0] = canonical
    .replace(/^64:ff9b::/, '')
    .split(':')
    .map((group) => parseInt(group, 16))
  return [high >> 8, high & 255, low >> 8, low & 255].join('.')
}

export class AddressRule {
  readonly #host: string
  readonly #resolve: LookupFunction
  /** How near the configured upstream is, as far as it is known. */
  #reach: AddressClass

  /** @param resolve stands in for the system's resolver */
  constructor(upstream: URL, resolve: LookupFunction = systemLookup) {
    this.#host = hostOf(upstream)
    this.#resolve = resolve
    this.#reach = this.#initialReach()
  }

  /** False for a literal address that must not be dialled. A name is only checked by {@link lookup}. */
  allows(url: URL): boolean {
    const host = hostOf(url)
    return host === this.#host || isIP(host) === 0 || this.#allowsAddress(host)
  }

  /** For `net.connect`, which never asks it about literals. */
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

  #initialReach(): AddressClass {
    if (isIP(this.#host) !== 0) return classifyAddress(this.#host)
    return this.#host === 'localhost' || this.#host.endsWith('.localhost') ? 'loopback' : 'public'
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
