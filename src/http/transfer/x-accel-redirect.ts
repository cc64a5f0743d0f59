/**
 * Finished blobs by an nginx in front of us: we say which file it is, and nginx sends it.
 *
 * Only to an nginx that we were told of, and that says so in its request: a program on the same machine comes from
 * the same address, and would take our answer for an empty blob. What nginx would answer otherwise than we do, for it
 * knows the file and not the blob, we answer ourselves.
 */
import { BlockList, isIP } from 'node:net'
import type { Digest } from '../../oci/digest.ts'
import type { BlobAnswer } from '../../registry/repository.ts'
import type { Exchange } from '../exchange.ts'
import { etagOf } from './range.ts'

interface AccelOptions {
  /** Where it finds the folder of the blobs; ends in a slash. */
  readonly prefix: string
  /** Addresses, and networks as 10.0.0.0/8. */
  readonly from: readonly string[]
  /** The file's name in that folder, where it stays for long enough; undefined: it may not. */
  readonly tell: (digest: Digest, size: number) => Promise<string | undefined>
}

/** As Ruby's Rack has nginx say it. */
const SAYS_SO = { header: 'x-sendfile-type', value: 'X-Accel-Redirect' }

/** Conditions on a file's date, and on a tag that nginx does not know yet when it looks at them. */
const NOT_FOR_FILES = ['if-match', 'if-modified-since', 'if-unmodified-since']

/** One range, written as everybody reads it. */
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

  /** @returns what `X-Accel-Redirect` is to say; undefined: the bytes have to come from us */
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
