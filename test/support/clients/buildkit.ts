/**
 * BuildKit: containerd's resolver with the prefix after `/v2`, and a retry of its own around each fetch.
 *
 * Spec: the wire notes on containerd, last line; BuildKit's `util/resolver/retryhandler`.
 */
import { Resolver } from './containerd.ts'
import {
  Download,
  readManifest,
  RefusedError,
  type Client,
  type Descriptor,
  type ParsedManifest,
} from './client.ts'
import type { Strand } from './strand.ts'
import { ConnectionError, PullError } from './wire.ts'

const RETRY_PAUSES_MS = [1_000, 2_000, 4_000]
const LAYERS_AT_ONCE = 4

const VERSION = {
  userAgent: 'buildkit/v0.24',
  prefix: true,
  acceptEncoding: true,
  most: { requests: 5, layers: LAYERS_AT_ONCE },
  secondChance: true,
}

export const buildkit: Client = {
  name: 'BuildKit',
  elsewhere: 'everything',
  keepAlive: true,
  async pull(pulling) {
    const { strand, shelf, tag } = pulling
    const resolver = new Resolver(VERSION, pulling)
    const fetch = async (strand: Strand, wanted: Descriptor): Promise<void> => {
      const download = new Download()
      await withRetries(strand, () => resolver.fetch(strand, wanted, shelf, download))
    }
    const manifest = async (wanted: Descriptor): Promise<ParsedManifest> => {
      await fetch(strand, wanted)
      return readManifest(shelf.contents.get(wanted.digest)?.bytes() ?? Buffer.alloc(0))
    }
    const top = await manifest(await resolver.resolve(strand, tag))
    const { config, layers } = top.child === undefined ? top : await manifest(top.child)
    if (config === undefined) throw new PullError('an index in an index')
    // Whatever is JSON has a turn of its own.
    await strand.beside(
      (strand) => fetch(strand, config),
      (strand) => strand.all(LAYERS_AT_ONCE, layers, (layer, strand) => fetch(strand, layer)),
    )
  },
}

async function withRetries(strand: Strand, work: () => Promise<void>): Promise<void> {
  for (const pause of RETRY_PAUSES_MS) {
    try {
      await work()
      return
    } catch (error) {
      const passing =
        error instanceof ConnectionError
          ? error.breakage === 'eof' || error.breakage === 'reset'
          : error instanceof RefusedError && error.status >= 500
      if (!passing) throw error
      await strand.pause(pause)
    }
  }
  await work()
}
