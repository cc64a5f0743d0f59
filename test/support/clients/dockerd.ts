/**
 * dockerd with its own image store: 20.10 and 28.
 *
 * The whole pull restarts at the next endpoint. A layer that breaks off is continued at the same endpoint, five
 * times with ever longer pauses; nothing but the ping has a time-out. Spec: the wire notes on dockerd, and its
 * `distribution/pull_v2.go`.
 */
import {
  acceptLines,
  Download,
  expectOk,
  readManifest,
  refusalOf,
  RefusedError,
  WrongBytesError,
  type Client,
  type Descriptor,
  type ParsedManifest,
  type Pulling,
} from './client.ts'
import type { Strand } from './strand.ts'
import { ConnectionError, PullError, type Answer, type Endpoint, type Head } from './wire.ts'

const MANIFEST_TYPES = [
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
  'application/json',
]
const KNOWN = new Set(MANIFEST_TYPES.slice(0, 4))
const PING_MS = 15_000
const LAYERS_AT_ONCE = 3
const CONFIG_TRIES = 5
const CONFIG_PAUSE_MS = 250
const LAYER_RETRIES = 5
const LAYER_PAUSE_MS = 5_000
/** Its own pattern for `Content-Range` takes no `*`. */
const CONTENT_RANGE = /^bytes (\d+)-(\d+)\/(\d+)$/
const FINAL_CODES = new Set(['UNAUTHORIZED', 'UNSUPPORTED', 'DENIED', 'TOOMANYREQUESTS', 'NAME_UNKNOWN'])

/** Not worth another try at this endpoint, nor at any other. */
class UnsupportedError extends PullError {}

export const dockerd20 = dockerd(
  'dockerd 20.10',
  'docker/20.10.24 go/go1.19.8 git-commit/5d6db84 kernel/6.1.0 os/linux arch/amd64',
)
export const dockerd28 = dockerd(
  'dockerd 28',
  'docker/28.5.2 go/go1.24.9 git-commit/89c5e8f kernel/6.1.0 os/linux arch/amd64',
)

function dockerd(name: string, version: string): Client {
  const own: Head = [['User-Agent', `${version} UpstreamClient(Docker-Client/28.5.2 \\(linux\\))`]]
  return {
    name,
    elsewhere: 'everything',
    keepAlive: false,
    async pull(pulling) {
      try {
        await new Endpoints(pulling, own, 'mirror').pull()
      } catch (error) {
        if (!(error instanceof PullError) || error instanceof UnsupportedError) throw error
        await new Endpoints(pulling, own, 'real').pull()
      }
    },
  }
}

class Endpoints {
  readonly #pulling: Pulling
  readonly #own: Head
  readonly #endpoint: Endpoint

  constructor(pulling: Pulling, own: Head, endpoint: Endpoint) {
    this.#pulling = pulling
    this.#own = own
    this.#endpoint = endpoint
  }

  async pull(): Promise<void> {
    const { strand, tag } = this.#pulling
    // Whatever its status, it is only looked at for challenges.
    const ping = await strand.ask(this.#endpoint, 'GET', '/v2/', this.#head(), PING_MS)
    await ping.bytes()
    const top = await this.#manifest(await this.#resolve(tag))
    const { config, layers } = top.child === undefined ? top : await this.#manifest(top.child.digest)
    if (config === undefined) throw new PullError('an index in an index')
    await strand.beside(
      (strand) => this.#config(strand, config),
      (strand) => strand.all(LAYERS_AT_ONCE, layers, (layer, strand) => this.#layer(strand, layer)),
    )
  }

  #head(...more: Head): Head {
    return [...this.#own, ...more, ['Connection', 'close']]
  }

  #ask(strand: Strand, method: 'GET' | 'HEAD', path: string, ...more: Head): Promise<Answer> {
    const { registry, repository } = this.#pulling
    // It has mirrors for docker.io only. The same requests for another registry are those of a name with a prefix.
    const prefix = this.#endpoint === 'mirror' && registry !== 'docker.io' ? `${registry}/` : ''
    return strand.ask(this.#endpoint, method, `/v2/${prefix}${repository}/${path}`, this.#head(...more))
  }

  /** A map of Go is walked in another order each time. */
  #acceptManifests(): Head {
    return acceptLines(MANIFEST_TYPES.toSorted(() => Math.random() - 0.5))
  }

  async #resolve(tag: string): Promise<string> {
    const { strand } = this.#pulling
    const path = `manifests/${tag}`
    let answer = await this.#ask(strand, 'HEAD', path, ...this.#acceptManifests())
    await answer.discard()
    if (!answer.ok || answer.header('docker-content-digest') === undefined) {
      answer = await expectOk(await this.#ask(strand, 'GET', path, ...this.#acceptManifests()))
      await answer.discard()
    }
    for (const name of ['content-type', 'content-length', 'docker-content-digest']) {
      if (answer.header(name) === undefined) throw new RefusedError(answer.exchange, `no ${name}`)
    }
    return answer.header('docker-content-digest') ?? ''
  }

  async #manifest(digest: string): Promise<ParsedManifest> {
    const { strand, shelf } = this.#pulling
    const path = `manifests/${digest}`
    const answer = await expectOk(await this.#ask(strand, 'GET', path, ...this.#acceptManifests()))
    const type = (answer.header('content-type') ?? '').split(';')[0]?.trim() ?? ''
    const download = new Download()
    download.add(this.#endpoint, await answer.bytes())
    if (type === '' || type === 'application/json') throw new PullError('Docker Image Format v1 is removed')
    if (!KNOWN.has(type)) throw new UnsupportedError(`unsupported media type ${type}`)
    shelf.keep(digest, download)
    return readManifest(download.bytes())
  }

  async #config(strand: Strand, { digest }: Descriptor): Promise<void> {
    const download = new Download()
    for (let tries = 1; download.size === 0; tries += 1) {
      try {
        const answer = await expectOk(await this.#blob(strand, digest))
        download.add(this.#endpoint, await answer.bytes())
      } catch (error) {
        if (isFinal(error) || tries === CONFIG_TRIES) throw error
        await strand.pause(CONFIG_PAUSE_MS * 2 ** (tries - 1))
      }
    }
    this.#pulling.shelf.keep(digest, download)
  }

  async #layer(strand: Strand, { digest }: Descriptor): Promise<void> {
    const { shelf } = this.#pulling
    if (shelf.has(digest)) return
    const download = new Download()
    for (let retries = 1; !shelf.has(digest); retries += 1) {
      try {
        await this.#download(strand, digest, download)
      } catch (error) {
        if (isFinal(error) || retries > LAYER_RETRIES) throw error
        await strand.pause(retries * LAYER_PAUSE_MS)
      }
    }
  }

  /** One try, from where the last one broke off. */
  async #download(strand: Strand, digest: string, download: Download): Promise<void> {
    const offset = download.size
    const answer =
      offset === 0 ? await this.#fresh(strand, digest) : await this.#rest(strand, digest, download)
    for await (const chunk of answer.chunks()) download.add(this.#endpoint, chunk)
    try {
      this.#pulling.shelf.keep(digest, download)
    } catch (error) {
      download.clear()
      // Only after a resumed download the mistake may be its own.
      if (offset > 0) throw new PullError('wrong after a resume', { cause: error })
      throw error
    }
  }

  /** It seeks to the end to learn the size, and reads: a request each when the first one fails. */
  async #fresh(strand: Strand, digest: string): Promise<Answer> {
    try {
      return await expectOk(await this.#blob(strand, digest))
    } catch (error) {
      if (!(error instanceof PullError)) throw error
      return await expectOk(await this.#blob(strand, digest))
    }
  }

  /** Whatever goes wrong here, it begins again from nothing, and never at another endpoint. */
  async #rest(strand: Strand, digest: string, download: Download): Promise<Answer> {
    const offset = download.size
    try {
      const answer = await this.#blob(strand, digest, ['Range', `bytes=${String(offset)}-`])
      if (answer.status === 206) {
        const [, first, last, total] = CONTENT_RANGE.exec(answer.header('content-range') ?? '') ?? []
        if (Number(first) === offset && Number(last) + 1 === Number(total)) return answer
      }
      throw await refusalOf(answer)
    } catch (error) {
      download.clear()
      if (!(error instanceof PullError)) throw error
      throw new PullError('cannot be resumed', { cause: error })
    }
  }

  #blob(strand: Strand, digest: string, ...more: Head): Promise<Answer> {
    const head: Head = more.length > 0 ? more : [['Accept-Encoding', 'gzip']]
    return this.#ask(strand, 'GET', `blobs/${digest}`, ...head)
  }
}

function isFinal(error: unknown): boolean {
  if (error instanceof ConnectionError) return false
  if (error instanceof WrongBytesError) return true
  if (!(error instanceof RefusedError)) return !(error instanceof PullError)
  if (error.status >= 500) return false
  return error.status === 404 || error.code === undefined || FINAL_CODES.has(error.code)
}
