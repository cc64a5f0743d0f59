/**
 * containerd 1.6, 2.1, 2.3 and 2.4, and the resolver that others have from it.
 *
 * Each request goes through all hosts, the mirror first, until one answers; a body that breaks off is continued
 * the same way. What arrives is only looked at when all of it is there: then there is no other host any more.
 * Spec: the wire notes on containerd, and its `core/remotes/docker`.
 */
import { openParallel, type Pieces } from './containerd-parallel.ts'
import {
  Download,
  expectOk,
  readManifest,
  readReferrers,
  refusalOf,
  RefusedError,
  type Client,
  type Descriptor,
  type Pulling,
  type Shelf,
} from './client.ts'
import type { Strand } from './strand.ts'
import { ConnectionError, PullError, type Answer, type Endpoint, type Head } from './wire.ts'

export interface Version {
  readonly userAgent: string
  /** The registry is named between `/v2` and the repository. */
  readonly prefix?: boolean
  /** The image is named after the mirror itself, so that no other host is known, and no `ns` is sent. */
  readonly alone?: boolean
  readonly acceptEncoding: boolean
  /** `bytes=0-` on whatever is fetched. */
  readonly alwaysRange?: boolean
  readonly headersMs?: number
  readonly most: { readonly requests: number; readonly layers: number }
  /** 500, 503 and 504 of the last host once more. */
  readonly secondChance: boolean
  /** The last host is asked again when it is late, or closes the connection before it answers. */
  readonly patient?: boolean
  /** HEAD that is forbidden is followed by a GET, for what its body says of the reason. */
  readonly asksWhyForbidden?: boolean
  readonly parallel?: Pieces
}

const RESOLVE_ACCEPT =
  'application/vnd.docker.distribution.manifest.v2+json, ' +
  'application/vnd.docker.distribution.manifest.list.v2+json, ' +
  'application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*'
const IDLE_TRIES = 3
const PATIENT_PAUSE_MS = 50

export const containerd16 = containerd('containerd 1.6', {
  userAgent: 'containerd/1.6.20',
  acceptEncoding: false,
  most: { requests: 6, layers: 3 },
  secondChance: false,
})
export const containerd21 = containerd('containerd 2.1', {
  userAgent: 'containerd/v2.1.4',
  acceptEncoding: true,
  alwaysRange: true,
  most: { requests: 5, layers: 3 },
  secondChance: true,
})
export const containerd23 = containerd('containerd 2.3 (parallel)', {
  userAgent: 'containerd/v2.3.1',
  acceptEncoding: true,
  headersMs: 30_000,
  most: { requests: 5, layers: 3 },
  secondChance: true,
  parallel: { size: 256 * 1024, atOnce: 3 },
})
export const containerd24 = containerd('containerd 2.4', {
  userAgent: 'containerd/v2.4.2',
  acceptEncoding: true,
  headersMs: 30_000,
  most: { requests: 5, layers: 3 },
  secondChance: true,
  patient: true,
  asksWhyForbidden: true,
  parallel: { size: 256 * 1024, atOnce: 3 },
})

function containerd(name: string, version: Version): Client {
  return {
    name,
    elsewhere: 'everything',
    keepAlive: true,
    async pull(pulling: Pulling) {
      const { strand, shelf, tag } = pulling
      const resolver = new Resolver(version, pulling)
      const top = await resolver.resolve(strand, tag)
      const fetch = (strand: Strand, it: Descriptor): Promise<void> =>
        resolver.fetch(strand, it, shelf, new Download())
      await fetch(strand, top)
      let manifest = readManifest(shelf.contents.get(top.digest)?.bytes() ?? Buffer.alloc(0))
      if (manifest.child !== undefined) {
        await fetch(strand, manifest.child)
        manifest = readManifest(shelf.contents.get(manifest.child.digest)?.bytes() ?? Buffer.alloc(0))
      }
      const { config, layers } = manifest
      if (config === undefined) throw new PullError('an index in an index')
      await strand.all(version.most.layers, [config, ...layers], (it, strand) => fetch(strand, it))
    },
  }
}

export class Resolver {
  readonly #version: Version
  readonly #pulling: Pulling

  constructor(version: Version, pulling: Pulling) {
    this.#version = version
    this.#pulling = pulling
  }

  async resolve(strand: Strand, tag: string): Promise<Descriptor> {
    return await this.#firstOf(async (endpoint, last) => {
      const head: Head = [['Accept', RESOLVE_ACCEPT]]
      let answer = await this.#ask(strand, endpoint, 'HEAD', `manifests/${tag}`, head, last)
      if (answer.status === 405) {
        await answer.discard()
        answer = await this.#ask(strand, endpoint, 'GET', `manifests/${tag}`, head, last)
      }
      if (answer.status === 403 && this.#version.asksWhyForbidden === true) {
        await answer.discard()
        answer = await this.#ask(strand, endpoint, 'GET', `manifests/${tag}`, head, false)
        throw await refusalOf(answer)
      }
      if (!answer.ok) throw await refusalOf(answer)
      await answer.discard()
      const [mediaType = '', digest, size] = ['content-type', 'docker-content-digest', 'content-length'].map(
        (name) => answer.header(name),
      )
      if (digest !== undefined && size !== undefined) return { mediaType, digest, size: Number(size) }
      throw new RefusedError(answer.exchange, 'no digest or no length: it would hash a GET')
    })
  }

  /**
   * @param download kept by whoever tries again: what is there is not asked for twice
   * @throws PullError also for what only shows when everything is there
   */
  async fetch(strand: Strand, wanted: Descriptor, shelf: Shelf, download: Download): Promise<void> {
    const { digest, size } = wanted
    for (let idle = 0; ;) {
      const before = download.size
      try {
        const body = await this.#open(strand, wanted, download.size)
        for await (const chunk of body.chunks) download.add(body.endpoint, chunk)
        break
      } catch (error) {
        if (!(error instanceof ConnectionError) || error.breakage !== 'unexpected eof') throw error
        idle = download.size > before ? 1 : idle + 1
        if (idle > IDLE_TRIES) throw error
      }
    }
    if (download.size !== size) throw new PullError(`${String(download.size)} bytes of ${String(size)} came`)
    shelf.keep(digest, download)
  }

  /**
   * What refers to `subject`. The tag is looked at when no host knows the API, or none answers; where that tag is
   * not there, nothing refers to it, whatever was said before.
   *
   * @throws PullError when no host can say
   */
  async referrers(strand: Strand, subject: string): Promise<readonly Descriptor[]> {
    let first: PullError | undefined
    const tag = subject.replace(':', '-')
    for (const what of [`referrers/${subject}`, `manifests/${tag}`]) {
      for (const endpoint of this.#endpoints()) {
        let bytes: Buffer
        try {
          bytes = await this.#index(strand, endpoint, what)
        } catch (error) {
          if (!(error instanceof PullError)) throw error
          const absent = error instanceof RefusedError && error.status === 404
          if (absent && what.startsWith('manifests/')) return []
          if (!absent) first ??= error
          continue
        }
        return readReferrers(bytes)
      }
    }
    throw first ?? new PullError('no referrers hosts')
  }

  async #index(strand: Strand, endpoint: Endpoint, what: string): Promise<Buffer> {
    const head: Head = [['Accept', 'application/vnd.oci.image.index.v1+json, */*'], ...this.#encodings()]
    const answer = await this.#ask(strand, endpoint, 'GET', what, head, this.#isLast(endpoint))
    return await (await expectOk(answer)).bytes()
  }

  #endpoints(): readonly Endpoint[] {
    return this.#version.alone === true ? ['mirror'] : ['mirror', 'real']
  }

  #isLast(endpoint: Endpoint): boolean {
    return endpoint === this.#endpoints().at(-1)
  }

  #encodings(): Head {
    return this.#version.acceptEncoding ? [['Accept-Encoding', 'zstd;q=1.0, gzip;q=0.8, deflate;q=0.5']] : []
  }

  /** What is too much, or too early, is sent again at once, without a pause. */
  async #ask(
    strand: Strand,
    endpoint: Endpoint,
    method: 'GET' | 'HEAD',
    what: string,
    head: Head,
    last: boolean,
  ): Promise<Answer> {
    const { userAgent, most, secondChance, headersMs, alone, prefix: prefixed, patient } = this.#version
    const { registry, repository } = this.#pulling
    const prefix = endpoint === 'mirror' && prefixed === true ? `${registry}/` : ''
    // Wherever the host is not the one that the image is named after.
    const query = endpoint === 'mirror' && alone !== true ? `?ns=${encodeURIComponent(registry)}` : ''
    const path = `/v2/${prefix}${repository}/${what}${query}`
    const heads: Head = [['User-Agent', userAgent], ...head]
    let chances = secondChance && last ? 1 : 0
    for (let requests = 1; ; requests += 1) {
      let answer: Answer
      try {
        answer = await strand.ask(endpoint, method, path, heads, headersMs)
      } catch (error) {
        if (patient !== true || !last || !mayPass(error) || requests === most.requests) throw error
        await strand.pause(PATIENT_PAUSE_MS)
        continue
      }
      const { status } = answer
      const again = status === 408 || status === 429 || ([500, 503, 504].includes(status) && chances-- > 0)
      if (!again || requests === most.requests) return answer
      await answer.discard()
    }
  }

  async #open(
    strand: Strand,
    { mediaType, digest }: Descriptor,
    offset: number,
  ): Promise<{ endpoint: Endpoint; chunks: AsyncIterable<Buffer> }> {
    const { alwaysRange, parallel } = this.#version
    const what = `${/manifest|index/.test(mediaType) ? 'manifests' : 'blobs'}/${digest}`
    const heads = (from: number): Head => [
      ['Accept', `${mediaType}, */*`],
      ...this.#encodings(),
      ...(from > 0 || alwaysRange === true || parallel !== undefined
        ? ([['Range', `bytes=${String(from)}-`]] as const)
        : []),
    ]
    return await this.#firstOf(async (endpoint, last) => {
      const ask = async (from: number, strand: Strand): Promise<Answer> => {
        const answer = await this.#ask(strand, endpoint, 'GET', what, heads(from), last)
        if (!answer.ok) throw await refusalOf(answer)
        return answer
      }
      const answer = await ask(offset, strand)
      const range = answer.header('content-range')
      if (range?.startsWith(`bytes ${String(offset)}-`) === false) {
        throw new RefusedError(answer.exchange, `unhandled content range ${range}`)
      }
      const rest = Number(answer.header('content-length'))
      if (parallel !== undefined && range !== undefined && rest > parallel.size) {
        return { endpoint, chunks: openParallel({ strand, answer, ask, offset, rest, pieces: parallel }) }
      }
      return { endpoint, chunks: range === undefined ? skip(answer, offset) : answer.chunks() }
    })
  }

  /** The first error is what it reports in the end. */
  async #firstOf<T>(work: (endpoint: Endpoint, last: boolean) => Promise<T>): Promise<T> {
    let first: PullError | undefined
    for (const endpoint of this.#endpoints()) {
      try {
        return await work(endpoint, this.#isLast(endpoint))
      } catch (error) {
        if (!(error instanceof PullError)) throw error
        first ??= error
      }
    }
    throw first ?? new PullError('no hosts')
  }
}

function mayPass(error: unknown): boolean {
  return error instanceof ConnectionError && ['late', 'eof', 'unexpected eof'].includes(error.breakage)
}

/** Somebody sent everything instead of a part. */
async function* skip(answer: Answer, offset: number): AsyncGenerator<Buffer, void, undefined> {
  let left = offset
  for await (const chunk of answer.chunks()) {
    const rest = chunk.subarray(Math.min(left, chunk.length))
    left -= chunk.length - rest.length
    if (rest.length > 0) yield rest
  }
}
