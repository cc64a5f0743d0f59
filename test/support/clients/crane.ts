/**
 * crane, and whatever else is made of go-containerregistry: ko, kaniko.
 *
 * It knows no mirrors, continues nothing, and tries a request three times. Spec: the wire notes on crane.
 */
import { digestOf } from '../../../src/oci/digest.ts'
import {
  Download,
  expectOk,
  readManifest,
  RefusedError,
  type Client,
  type Descriptor,
  type ParsedManifest,
  type Pulling,
} from './client.ts'
import type { Strand } from './strand.ts'
import { ConnectionError, PullError, type Answer, type Head } from './wire.ts'

const OWN: Head = [['User-Agent', 'crane/v0.20.6 go-containerregistry/v0.20.6']]
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
const PASSING = new Set([408, 429, 500, 502, 503, 504, 499, 522])
const RETRY_PAUSES_MS = [1_000, 3_000]
const JOBS = 4

export const crane: Client = {
  name: 'crane',
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const { strand, tag } = pulling
    await ping(strand)
    const top = await manifest(pulling, tag)
    const { config, layers } = top.child === undefined ? top : await manifest(pulling, top.child.digest)
    if (config === undefined) throw new PullError('an index in an index')
    await strand.all(JOBS, [config, ...layers], (it, strand) => blob(pulling, strand, it))
  },
}

/** `crane digest`: all three headers, or it would ask again with GET. */
export const craneDigest: Client = {
  ...crane,
  name: 'crane digest',
  async pull(pulling) {
    const { strand, tag } = pulling
    await ping(strand)
    const answer = await expectOk(
      await ask(strand, 'HEAD', `/v2/${nameOf(pulling)}/manifests/${tag}`, ACCEPT),
    )
    await answer.discard()
    for (const name of ['content-type', 'content-length', 'docker-content-digest']) {
      if (answer.header(name) === undefined) throw new RefusedError(answer.exchange, `no ${name}`)
    }
  },
}

/** Without mirrors an image is named after the place that it comes from. */
function nameOf({ registry, repository }: Pulling): string {
  return registry === 'docker.io' ? repository : `${registry}/${repository}`
}

async function ping(strand: Strand): Promise<void> {
  const answer = await ask(strand, 'GET', '/v2/')
  await answer.discard()
  if (answer.status !== 200 && answer.status !== 401) throw new RefusedError(answer.exchange, 'no registry')
}

async function manifest(pulling: Pulling, reference: string): Promise<ParsedManifest> {
  const { strand, shelf } = pulling
  const path = `/v2/${nameOf(pulling)}/manifests/${reference}`
  const answer = await expectOk(await ask(strand, 'GET', path, ACCEPT))
  const download = new Download()
  download.add('mirror', await answer.bytes())
  shelf.keep(reference.includes(':') ? reference : digestOf(download.bytes()), download)
  return readManifest(download.bytes())
}

async function blob(pulling: Pulling, strand: Strand, wanted: Descriptor): Promise<void> {
  const { digest, size } = wanted
  const answer = await expectOk(await ask(strand, 'GET', `/v2/${nameOf(pulling)}/blobs/${digest}`))
  const length = answer.header('content-length')
  if (length !== undefined && Number(length) !== size) {
    throw new RefusedError(answer.exchange, `${length} bytes instead of ${String(size)}`)
  }
  const download = new Download()
  for await (const chunk of answer.chunks()) download.add('mirror', chunk)
  pulling.shelf.keep(digest, download)
}

async function ask(strand: Strand, method: 'GET' | 'HEAD', path: string, more: Head = []): Promise<Answer> {
  for (const pause of RETRY_PAUSES_MS) {
    try {
      const answer = await strand.ask('mirror', method, path, [...OWN, ...more])
      if (!PASSING.has(answer.status)) return answer
      await answer.discard()
    } catch (error) {
      if (!(error instanceof ConnectionError) || error.breakage === 'refused') throw error
    }
    await strand.pause(pause)
  }
  return await strand.ask('mirror', method, path, [...OWN, ...more])
}
