/**
 * X-Accel-Redirect: tells the nginx in front which file holds a finished blob, and nginx sends it.
 *
 * Only an nginx whose address is configured and whose request announces support gets this answer: another program on
 * that machine has the same address, and would take it for an empty blob. The registry answers itself where nginx,
 * which knows the file's date and not the blob's digest, would decide a condition or a range otherwise.
 */
import { BlockList, isIP } from 'node:net'
import type { Digest } from '../../oci/digest.ts'
import type { BlobAnswer } from '../../registry/repository.ts'
import type { Exchange } from '../exchange.ts'
import { etagOf } from './range.ts'

interface AccelOptions {
  /** The nginx location of the blobs' folder; ends in a slash. */
  readonly prefix: string
  /** Addresses, and networks in the form 10.0.0.0/8. */
  readonly from: readonly string[]
  /** @returns the file's path in that folder; undefined where nginx cannot, or must not, open it */
  readonly tell: (digest: Digest, size: number) => Promise<string | undefined>
}

/** With this header nginx announces that it takes the answer; the name comes from Ruby's Rack. */
const SAYS_SO = { header: 'x-sendfile-type', value: 'X-Accel-Redirect' }

/** nginx evaluates these conditions against the file's date, and before it knows the ETag. */
const NOT_FOR_FILES = ['if-match', 'if-modified-since', 'if-unmodified-since']

/** A single range, in the form that every server reads alike. */
const PLAIN_RANGE = /^bytes=(?:\d{1,15}-\d{0,15}|-\d{1,15})$/

export class XAccelRedirect {
  readonly #options: AccelOptions
  readonly #from = new BlockList()

  constructor(options: AccelOptions) {
    this.#options = options
    for (const it of options.from) {
      const [address = '', bits] = it.split('/', 2)
      const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
      if (bits === undefined) this.#from.addAddress(address, family)
      else this.#from.addSubnet(address, Number(bits), family)
    }
  }

  /** @returns the value of `X-Accel-Redirect`; undefined: the registry has to send the bytes */
  async redirect(exchange: Exchange, answer: BlobAnswer): Promise<string | undefined> {
    const { digest, size, cache, unverified } = answer
    if (unverified || !size || (cache !== 'hit' && cache !== 'local')) return undefined
    if (exchange.header(SAYS_SO.header) !== SAYS_SO.value || !this.#knows(exchange.remote)) return undefined
    if (!isPlain(exchange, digest)) return undefined
    const name = await this.#options.tell(digest, size)
    return name === undefined ? undefined : this.#options.prefix + name
  }

  #knows(remote = ''): boolean {
    const [address = ''] = remote.split('%', 1)
    const family = isIP(address)
    return family !== 0 && this.#from.check(address, family === 6 ? 'ipv6' : 'ipv4')
  }
}

function isPlain(exchange: Exchange, digest: Digest): boolean {
  if (NOT_FOR_FILES.some((name) => exchange.header(name) !== undefined)) return false
  const [range, ifRange] = [exchange.header('range'), exchange.header('if-range')]
  return (range === undefined || PLAIN_RANGE.test(range)) && (ifRange ?? etagOf(digest)) === etagOf(digest)
}
