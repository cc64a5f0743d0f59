/**
 * podman, and whatever else is made of containers/image: skopeo, buildah, CRI-O.
 *
 * The first endpoint whose manifest arrives has to deliver all blobs; nothing has a time-out. The second form
 * fetches layers in several parts at once, as zstd:chunked images are. Spec: the wire notes on podman.
 */
import { digestOf } from '../../../src/oci/digest.ts'
import {
  acceptLines,
  Download,
  expectOk,
  readManifest,
  refusalOf,
  RefusedError,
  type Client,
  type Descriptor,
  type ParsedManifest,
  type Pulling,
} from './client.ts'
import { nextPageOf, readTags } from './pages.ts'
import { readParts } from './podman-parts.ts'
import type { Strand } from './strand.ts'
import { ConnectionError, PullError, type Answer, type Endpoint, type Head } from './wire.ts'

const OWN: Head = [
  ['User-Agent', 'containers/5.36.2 (github.com/containers/image)'],
  ['Docker-Distribution-API-Version', 'registry/2.0'],
]
const ACCEPT = acceptLines([
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
  'application/vnd.docker.distribution.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.index.v1+json',
])
const LAYERS_AT_ONCE = 6
const BUSY_TRIES = 5
const BUSY_PAUSE_MS = 2_000
const BUSY_PAUSE_MOST_MS = 60_000
const RECONNECT_PAUSE_MS = 1_000
const RECONNECT_PROGRESS = 2 ** 20
const PULL_PAUSES_MS = [2_000, 4_000, 8_000]
/** More than one part, and none beside another, in each of two requests. */
const PARTS = 8

export const podman = containersImage('podman', false)
export const podmanPartial = containersImage('podman (partial)', true)

function containersImage(name: string, partial: boolean): Client {
  return {
    name,
    elsewhere: 'manifests',
    keepAlive: true,
    async pull(pulling) {
      for (const pause of PULL_PAUSES_MS) {
        try {
          await pullOnce(pulling, partial)
          return
        } catch (error) {
          if (!(error instanceof PullError) || !isPassing(error)) throw error
          await pulling.strand.pause(pause)
        }
      }
      await pullOnce(pulling, partial)
    },
  }
}

function isPassing(error: PullError): boolean {
  return error instanceof ConnectionError || (error instanceof RefusedError && error.status >= 429)
}

async function pullOnce(pulling: Pulling, partial: boolean): Promise<void> {
  let first: PullError | undefined
  for (const endpoint of ['mirror', 'real'] as const) {
    const source = new Source(pulling, endpoint)
    let manifest: ParsedManifest
    try {
      await source.ping()
      manifest = await source.manifest(pulling.tag)
    } catch (error) {
      if (!(error instanceof PullError)) throw error
      first ??= error
      continue
    }
    await source.rest(manifest, partial)
    return
  }
  throw first ?? new PullError('no endpoints')
}

export class Source {
  readonly #pulling: Pulling
  readonly #endpoint: Endpoint

  constructor(pulling: Pulling, endpoint: Endpoint) {
    this.#pulling = pulling
    this.#endpoint = endpoint
  }

  async ping(): Promise<void> {
    const answer = await this.#ask(this.#pulling.strand, '/v2/')
    if (answer.status !== 200 && answer.status !== 401) throw await refusalOf(answer)
    await answer.discard()
  }

  async manifest(reference: string): Promise<ParsedManifest> {
    const { strand, shelf } = this.#pulling
    const answer = await expectOk(await this.#ask(strand, this.#path('manifests', reference), ACCEPT))
    const download = new Download()
    download.add(this.#endpoint, await answer.bytes())
    // Of a tag it computes the digest itself.
    shelf.keep(reference.includes(':') ? reference : digestOf(download.bytes()), download)
    return readManifest(download.bytes())
  }

  async tags(): Promise<readonly string[]> {
    const tags: string[] = []
    for (let path: string | undefined = this.#path('tags', 'list'); path !== undefined;) {
      const answer = await this.#ask(this.#pulling.strand, path)
      if (answer.status !== 200) throw await refusalOf(answer)
      tags.push(...readTags(await answer.bytes()))
      path = nextPageOf(answer)
    }
    return tags
  }

  /** No other endpoint any more. */
  async rest(top: ParsedManifest, partial: boolean): Promise<void> {
    const { strand, shelf } = this.#pulling
    const { config, layers } = top.child === undefined ? top : await this.manifest(top.child.digest)
    if (config === undefined) throw new PullError('an index in an index')
    const missing = layers.filter(({ digest }) => !shelf.has(digest))
    await this.blob(strand, config)
    await strand.all(LAYERS_AT_ONCE, missing, (layer, strand) =>
      partial && layer.size >= PARTS ? this.#parts(strand, layer) : this.blob(strand, layer),
    )
  }

  async blob(strand: Strand, { digest }: Descriptor): Promise<void> {
    const download = new Download()
    let answer = await this.#ask(strand, this.#path('blobs', digest))
    if (answer.status !== 200) throw await refusalOf(answer)
    for (let reconnectedAt = -1; ;) {
      try {
        for await (const chunk of answer.chunks()) download.add(this.#endpoint, chunk)
        break
      } catch (error) {
        if (!(error instanceof ConnectionError)) throw error
        if (reconnectedAt >= 0 && download.size - reconnectedAt < RECONNECT_PROGRESS) throw error
        reconnectedAt = download.size
        await strand.pause(RECONNECT_PAUSE_MS)
        answer = await this.#reconnect(strand, digest, download.size)
      }
    }
    this.#pulling.shelf.keep(digest, download)
  }

  async #reconnect(strand: Strand, digest: string, offset: number): Promise<Answer> {
    const answer = await this.#ask(strand, this.#path('blobs', digest), [
      ['Range', `bytes=${String(offset)}-`],
    ])
    if (answer.status !== 206) throw await refusalOf(answer)
    const range = answer.header('content-range') ?? ''
    const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(range) ?? []
    if (Number(first) === offset && (total === '*' || Number(last) + 1 === Number(total))) return answer
    throw new RefusedError(answer.exchange, `unexpected Content-Range ${range}`)
  }

  async #parts(strand: Strand, { digest, size }: Descriptor): Promise<void> {
    const length = Math.ceil(size / PARTS)
    const all = Array.from({ length: PARTS }, (_, i) => ({
      start: i * length,
      end: Math.min(size, (i + 1) * length),
    })).filter(({ start, end }) => start < end)
    const pieces = new Map<number, Buffer>()
    for (const odd of [0, 1]) {
      const wanted = all.filter((_, i) => i % 2 === odd)
      const range = wanted.map(({ start, end }) => `${String(start)}-${String(end - 1)}`).join(',')
      const answer = await this.#ask(strand, this.#path('blobs', digest), [['Range', `bytes=${range}`]])
      // It would ask for each part alone.
      if (answer.status === 400) throw await refusalOf(answer)
      for (const [start, bytes] of await readParts(answer, wanted)) pieces.set(start, bytes)
    }
    const download = new Download()
    for (const { start } of all) download.add(this.#endpoint, pieces.get(start) ?? Buffer.alloc(0))
    this.#pulling.shelf.keep(digest, download)
  }

  #path(kind: 'manifests' | 'blobs' | 'tags', reference: string): string {
    const { registry, repository } = this.#pulling
    const prefix = this.#endpoint === 'mirror' ? `${registry}/` : ''
    return `/v2/${prefix}${repository}/${kind}/${reference}`
  }

  /** Whoever is told to come back later waits in the middle of the request. */
  async #ask(strand: Strand, path: string, more: Head = []): Promise<Answer> {
    let pause = BUSY_PAUSE_MS
    for (let tries = 1; ; tries += 1) {
      const answer = await strand.ask(this.#endpoint, 'GET', path, [...OWN, ...more])
      if (answer.status !== 429 || tries === BUSY_TRIES) return answer
      await answer.discard()
      const told = Number(answer.header('retry-after') ?? NaN) * 1_000
      pause = Math.min(Number.isNaN(told) ? pause : told, BUSY_PAUSE_MOST_MS)
      await strand.pause(pause)
      pause *= 2
    }
  }
}
