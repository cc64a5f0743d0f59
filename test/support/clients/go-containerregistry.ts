/**
 * go-containerregistry: the requests of crane, cosign, ko and kaniko.
 *
 * It knows no mirrors, continues nothing, and tries a request three times. Spec: the wire notes on crane, and its
 * `pkg/v1/remote`.
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
import { ConnectionError, type Answer, type Head } from './wire.ts'

const ACCEPT: Head = [
  [
    'Accept',
    [
      'application/vnd.docker.distribution.manifest.v1+json',
      'application/vnd.docker.distribution.manifest.v1+prettyjws',
      'application/vnd.docker.distribution.manifest.v2+json',
      'application/vnd.oci.image.manifest.v1+json',
      'application/vnd.docker.distribution.manifest.list.v2+json',
      'application/vnd.oci.image.index.v1+json',
    ].join(','),
  ],
]
const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
const PASSING = new Set([408, 429, 500, 502, 503, 504, 499, 522])
const RETRY_PAUSES_MS = [1_000, 3_000]
/** Other statuses of the referrers API mean that there is none. */
const NO_REFERRERS_API = new Set([404, 400, 406])
/** ECR takes no more. */
const PAGE_SIZE = 1000

export class Remote {
  readonly #pulling: Pulling
  readonly #own: Head

  constructor(pulling: Pulling, userAgent: string) {
    this.#pulling = pulling
    this.#own = [['User-Agent', userAgent]]
  }

  async ping(): Promise<void> {
    const answer = await this.#ask(this.#pulling.strand, 'GET', '/v2/')
    await answer.discard()
    if (answer.status !== 200 && answer.status !== 401) throw new RefusedError(answer.exchange, 'no registry')
  }

  /** All three headers, or it would ask again with GET. */
  async head(reference: string): Promise<void> {
    const { strand } = this.#pulling
    const answer = await expectOk(
      await this.#ask(strand, 'HEAD', this.#path(`manifests/${reference}`), ACCEPT),
    )
    await answer.discard()
    for (const name of ['content-type', 'content-length', 'docker-content-digest']) {
      if (answer.header(name) === undefined) throw new RefusedError(answer.exchange, `no ${name}`)
    }
  }

  async manifest(reference: string, accept: Head = ACCEPT): Promise<{ digest: string; bytes: Buffer }> {
    const { strand, shelf } = this.#pulling
    const path = this.#path(`manifests/${reference}`)
    const answer = await expectOk(await this.#ask(strand, 'GET', path, accept))
    const download = new Download()
    download.add('mirror', await answer.bytes())
    const bytes = download.bytes()
    const digest = reference.includes(':') ? reference : digestOf(bytes)
    shelf.keep(digest, download)
    return { digest, bytes }
  }

  async blob(strand: Strand, { digest, size }: Descriptor): Promise<void> {
    const answer = await expectOk(await this.#ask(strand, 'GET', this.#path(`blobs/${digest}`)))
    const length = answer.header('content-length')
    if (length !== undefined && Number(length) !== size) {
      throw new RefusedError(answer.exchange, `${length} bytes instead of ${String(size)}`)
    }
    const download = new Download()
    for await (const chunk of answer.chunks()) download.add('mirror', chunk)
    this.#pulling.shelf.keep(digest, download)
  }

  async tags(): Promise<readonly string[]> {
    const { strand } = this.#pulling
    const tags: string[] = []
    for (let path: string | undefined = this.#path(`tags/list?n=${String(PAGE_SIZE)}`); path !== undefined;) {
      const answer = await expectOk(await this.#ask(strand, 'GET', path))
      tags.push(...readTags(await answer.bytes()))
      path = nextPageOf(answer)
    }
    return tags
  }

  async referrers(subject: string): Promise<readonly Descriptor[]> {
    const { strand } = this.#pulling
    const accept: Head = [['Accept', OCI_INDEX]]
    const answer = await this.#ask(strand, 'GET', this.#path(`referrers/${subject}`), accept)
    if (answer.status !== 200 && !NO_REFERRERS_API.has(answer.status)) throw await refusalOf(answer)
    if (answer.status === 200 && answer.header('content-type') === OCI_INDEX) {
      return readReferrers(await answer.bytes())
    }
    await answer.discard()
    try {
      return readReferrers((await this.manifest(subject.replace(':', '-'), accept)).bytes)
    } catch (error) {
      if (error instanceof RefusedError && error.status === 404) return []
      throw error
    }
  }

  /** Without mirrors an image is named after the place that it comes from. */
  #path(what: string): string {
    const { registry, repository } = this.#pulling
    return `/v2/${registry === 'docker.io' ? '' : `${registry}/`}${repository}/${what}`
  }

  async #ask(strand: Strand, method: 'GET' | 'HEAD', path: string, more: Head = []): Promise<Answer> {
    for (const pause of RETRY_PAUSES_MS) {
      try {
        const answer = await strand.ask('mirror', method, path, [...this.#own, ...more])
        if (!PASSING.has(answer.status)) return answer
        await answer.discard()
      } catch (error) {
        if (!(error instanceof ConnectionError) || error.breakage === 'refused') throw error
      }
      await strand.pause(pause)
    }
    return await strand.ask('mirror', method, path, [...this.#own, ...more])
  }
}
