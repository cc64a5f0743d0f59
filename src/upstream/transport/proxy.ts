/**
 * Choice of the HTTP proxy for a request: the upstream's own `proxy`, else what the environment says.
 *
 * `NO_PROXY` is read as other tools do: a comma-separated list of host names (with all below them), `host:port`,
 * addresses, networks (`10.0.0.0/8`), and `*`.
 */
import { BlockList, isIP } from 'node:net'
import { classifyHost, hostOf } from './address-policy.ts'

type ProxyEnvironment = Readonly<Record<string, string | undefined>>

export interface ProxyChoice {
  /** Every request of this upstream goes through it, redirects included. */
  readonly proxy?: string | undefined
  /** `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, in either case. */
  readonly env?: ProxyEnvironment | undefined
}

export function environmentOf(read: {
  readonly httpProxy: string | undefined
  readonly httpsProxy: string | undefined
  readonly noProxy: string | undefined
}): ProxyEnvironment {
  return { HTTP_PROXY: read.httpProxy, HTTPS_PROXY: read.httpsProxy, NO_PROXY: read.noProxy }
}

export function proxyFor(url: URL, choice: ProxyChoice): string | undefined {
  if (choice.proxy !== undefined) return choice.proxy
  const { env = {} } = choice
  const read = (name: string): string | undefined => {
    const value = env[name.toLowerCase()] ?? env[name]
    return value === undefined || value === '' ? undefined : value
  }
  const proxy = read(url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY')
  // A proxy elsewhere cannot reach this machine's loopback; no tool sends it there.
  const isHere = classifyHost(hostOf(url)) === 'loopback'
  if (proxy === undefined || isHere || isExempt(url, read('NO_PROXY') ?? '')) return undefined
  // Many environments spell it `proxy.example:3128`.
  return proxy.includes('://') ? proxy : `http://${proxy}`
}

function isExempt(url: URL, list: string): boolean {
  return list.split(/[\s,]+/).some((entry) => entry !== '' && matches(url, entry.toLowerCase()))
}

function matches(url: URL, entry: string): boolean {
  if (entry === '*') return true
  const host = hostOf(url)
  const [network = '', bits] = entry.split('/')
  if (bits !== undefined) return isIn(host, network, Number(bits))
  const [, name = entry, port] = /^([^:]*|\[.*\]):(\d+)$/.exec(entry) ?? []
  if (port !== undefined && port !== (url.port || (url.protocol === 'https:' ? '443' : '80'))) return false
  const bare = name.replace(/^\*?\./, '').replace(/^\[|\]$/g, '')
  return bare !== '' && (host === bare || (isIP(host) === 0 && host.endsWith(`.${bare}`)))
}

function isIn(host: string, network: string, bits: number): boolean {
  const family = isIP(network)
  if (family === 0 || isIP(host) !== family || !(bits >= 0 && bits <= (family === 4 ? 32 : 128))) return false
  const type = family === 4 ? 'ipv4' : 'ipv6'
  const list = new BlockList()
  list.addSubnet(network, bits, type)
  return list.check(host, type)
}
