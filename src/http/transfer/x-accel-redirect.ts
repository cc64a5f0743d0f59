/**
 * X-Accel-Redirect: an nginx in front of us is told which file a finished blob is in, and sends it.
 *
 * The answer goes only to an nginx that the configuration names and that says in its request that it takes such answers:
 * a program on the same machine has the same address, and would take our answer for an empty blob. Where nginx would
 * answer otherwise than we do, for it knows the file and not the blob, we answer ourselves.
 */
import { BlockList, isIP } from 'node:net'
import type { Digest } from '../../oci/digest.ts'
import type { BlobAnswer } from '../../registry/repository.ts'
import type { Exchange } from '../exchange.ts'
import { etagOf } from './range.ts'

interface AccelOptions {
  /** The location at which nginx has the folder of the blobs; ends in a slash. */
  readonly prefix: string
  /** Addresses, and networks as 10.0.0.0/8. */
  readonly from: readonly string[]
  /** @returns the file's path in that folder; undefined where nginx cannot, or must not, open it */
  readonly tell: (digest: Digest, size: number) => Promise<string | undefined>
}

/** The header with which nginx says that it takes the answer; its name is that of Ruby's Rack. */
const SAYS_SO = { header: 'x-sendfile-type', value: 'X-Accel-Redirect' }

/** Conditions on the file's date, and on the ETag, which nginx does not know yet when it evaluates them. */
const NOT_FOR_FILES = ['if-match', 'if-modified-since', 'if-unmodified-since']

/** One range, in the form that all servers read alike. */
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
