/**
 * oras-go: the requests of oras, helm and notation.
 *
 * It knows no mirrors, and sends a request up to six times when it is answered 408, 429 or any 5xx. What it makes
 * of the referrers API it keeps in mind for the repository. Spec: its `registry/remote`.
 */
import { digestOf } from '../../../src/oci/digest.ts'
import {
  Download,
  expectOk,
  readReferrers,
  refusalOf,
  RefusedError,
  type Descriptor,
  type Pulling,
} from './client.ts'
import { nextPageOf, readTags } from './pages.ts'
import type { Strand } from './strand.ts'
import { type Answer, type Head } from './wire.ts'

const ACCEPT: Head = [
  [
    'Accept',
    [
      'application/vnd.docker.distribution.manifest.v2+json',
      'application/vnd.docker.distribution.manifest.list.v2+json',
      'application/vnd.oci.image.manifest.v1+json',
      'application/vnd.oci.image.index.v1+json',
      'application/vnd.oci.artifact.manifest.v1+json',
    ].join(', '),
  ],
]
const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
const RETRIES = 5
const RETRY_PAUSE_MS = 250
const RETRY_PAUSE_MOST_MS = 3_000

export class OrasRepository {
  readonly #pulling: Pulling
  readonly #own: Head
  #knowsReferrers: boolean | undefined

  constructor(pulling: Pulling, userAgent: string) {
    this.#pulling = pulling
    this.#own = [['User-Agent', userAgent]]
  }

  async resolve(reference: string): Promise<Descriptor> {
    const { strand } = this.#pulling
    const answer = await expectOk(await this.#ask(strand, 'HEAD', `manifests/${reference}`, ACCEPT))
    await answer.discard()
    const [mediaType, digest, size] = ['content-type', 'docker-content-digest', 'content-length'].map(
      (name) => answer.header(name),
    )
    if (mediaType === undefined || digest === undefined || size === undefined) {
      throw new RefusedError(answer.exchange, 'no type, no digest or no length')
    }
    return { mediaType, digest, size: Number(size) }
  }

  /** By a tag, in one request. */
  async manifest(tag: string): Promise<Buffer> {
    return await this.#manifest(tag, ACCEPT)
  }

  async fetchManifest({ digest, mediaType }: Descriptor): Promise<Buffer> {
    return await this.#manifest(digest, [['Accept', mediaType]])
  }

  async fetchBlob(strand: Strand, { digest, size }: Descriptor): Promise<void> {
    const { shelf } = this.#pulling
    const answer = await this.#ask(strand, 'GET', `blobs/${digest}`)
    // A part would be none of its business here.
    if (answer.status !== 200) throw await refusalOf(answer)
    const length = answer.header('content-length')
    if (length !== undefined && Number(length) !== size) {
      throw new RefusedError(answer.exchange, 'mismatch Content-Length')
    }
    const download = new Download()
    for await (const chunk of answer.chunks()) download.add('mirror', chunk)
    shelf.keep(digest, download)
  }

  async tags(): Promise<readonly string[]> {
    const tags: string[] = []
    for await (const answer of this.#pages('tags/list')) {
      await expectOk(answer)
      tags.push(...readTags(await answer.bytes()))
    }
    return tags
  }

  async referrers(subject: string, artifactType?: string): Promise<readonly Descriptor[]> {
    const wanted = (it: Descriptor): boolean => artifactType === undefined || it.artifactType === artifactType
    if (this.#knowsReferrers !== false) {
      const listed = await this.#listed(subject, artifactType)
      this.#knowsReferrers = listed !== undefined
      if (listed !== undefined) return listed.filter(wanted)
    }
    try {
      return readReferrers(await this.manifest(subject.replace(':', '-'))).filter(wanted)
    } catch (error) {
      if (error instanceof RefusedError && error.status === 404) return []
      throw error
    }
  }

  /** Undefined: there is no such API. */
  async #listed(subject: string, artifactType: string | undefined): Promise<Descriptor[] | undefined> {
    const query = artifactType === undefined ? '' : `?artifactType=${encodeURIComponent(artifactType)}`
    const found: Descriptor[] = []
    for await (const answer of this.#pages(`referrers/${subject}${query}`)) {
      if (answer.status === 404) {
        const refusal = await refusalOf(answer)
        if (refusal.code === 'NAME_UNKNOWN') throw refusal
        return undefined
      }
      if (answer.status !== 200) throw await refusalOf(answer)
      const bytes = await answer.bytes()
      if (answer.header('content-type') !== OCI_INDEX) return undefined
      found.push(...readReferrers(bytes))
    }
    return found
  }

  async *#pages(what: string): AsyncGenerator<Answer, void, undefined> {
    for (let path: string | undefined = this.#path(what); path !== undefined;) {
      const answer: Answer = await this.#askPath(this.#pulling.strand, 'GET', path)
      yield answer
      path = nextPageOf(answer)
    }
  }

  async #manifest(reference: string, accept: Head): Promise<Buffer> {
    const { strand, shelf } = this.#pulling
    const answer = await expectOk(await this.#ask(strand, 'GET', `manifests/${reference}`, accept))
    const download = new Download()
    download.add('mirror', await answer.bytes())
    const bytes = download.bytes()
    shelf.keep(reference.includes(':') ? reference : digestOf(bytes), download)
    return bytes
  }

  #path(what: string): string {
    const { registry, repository } = this.#pulling
    return `/v2/${registry}/${repository}/${what}`
  }

  #ask(strand: Strand, method: 'GET' | 'HEAD', what: string, more: Head = []): Promise<Answer> {
    return this.#askPath(strand, method, this.#path(what), more)
  }

  async #askPath(strand: Strand, method: 'GET' | 'HEAD', path: string, more: Head = []): Promise<Answer> {
    for (let retries = 0; ; retries += 1) {
      const answer = await strand.ask('mirror', method, path, [...this.#own, ...more])
      const { status } = answer
      if ((status !== 408 && status !== 429 && status < 500) || retries === RETRIES) return answer
      await answer.discard()
      const told = status === 429 ? Number(answer.header('retry-after') ?? NaN) * 1_000 : NaN
      const pause = Number.isNaN(told) ? RETRY_PAUSE_MS * 2 ** retries : told
      await strand.pause(Math.min(pause, RETRY_PAUSE_MOST_MS))
    }
  }
}
