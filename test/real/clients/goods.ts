/**
 * What the registries behind the mirror hold for real clients: an image as buildx makes it, with what refers to it,
 * and a chart in several versions. Layers are real archives, for these clients unpack them.
 */
import { createHash } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import { END_OF_ARCHIVE, tarHeader, tarPadding } from '../../../src/admin/archive/write-tar.ts'
import { content, descriptorOf, randomBytesOf, type Content } from '../../support/images.ts'
import type { UpstreamSimulator } from '../../support/upstream.ts'

const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip'
const CONFIG = 'application/vnd.oci.image.config.v1+json'
const EMPTY = content('application/vnd.oci.empty.v1+json', Buffer.from('{}'))
const TITLE = 'org.opencontainers.image.title'

export const SIGNATURE = 'application/vnd.dev.sigstore.bundle.v0.3+json'
export const SBOM = 'application/spdx+json'

/** The tags of an image's repository, beside those that stand for referrers. */
export const TAGS = ['1', '1.1', 'files', 'latest']
export const CHART_VERSIONS = ['0.9.0', '1.0.0', '1.2.0', '2.0.0']
/** What `^1.0` means among them. */
export const NEWEST_ONE = '1.2.0'

/** What a client should find in one repository. */
export interface Goods {
  readonly index: Content
  readonly amd64: Content
  /** Of what signs the index, and of what lists what is in its first image. */
  readonly signature: Content
  readonly sbom: Content
  /** The text that a file of the image, of the artifact and of the signature holds. */
  readonly words: string
  /** All, with what refers to it: manifests and blobs. */
  readonly contents: readonly Content[]
}

interface StockOptions {
  /** Whether the registry has one; where it has not, a tag stands for it, as clients push it then. */
  readonly referrersApi: boolean
  /** Each its own: what a mirror holds of another repository is not cold in this one. */
  readonly words: string
}

/** Fills a repository. */
export function stock(
  upstream: UpstreamSimulator,
  repository: string,
  { referrersApi, words }: StockOptions,
): Goods {
  const shelf: Content[] = []
  const put = (it: Content, tag?: string): Content => {
    shelf.push(it)
    if (isManifest(it)) upstream.holdings.addManifest(repository, tag, it)
    else upstream.addBlob(repository, it)
    return it
  }
  put(EMPTY)

  const [amd64, arm64] = ['amd64', 'arm64'].map((architecture) => {
    const files = {
      'greeting.txt': Buffer.from(words),
      bytes: randomBytesOf(20_000, words + architecture),
    }
    const tar = tarOf(files)
    const layer = put(content(LAYER, gzipSync(tar)))
    const config = put(
      json(CONFIG, {
        architecture,
        os: 'linux',
        config: { Cmd: ['/greeting'], Labels: { words } },
        rootfs: { type: 'layers', diff_ids: [`sha256:${createHash('sha256').update(tar).digest('hex')}`] },
      }),
    )
    return put(manifestOf({ config: descriptorOf(config), layers: [descriptorOf(layer)] }))
  }) as [Content, Content]
  const attestations = [amd64, arm64].map((of) => put(attestation(of, words, put)))
  const index = put(
    json(MEDIA_TYPES.ociIndex, {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests: [
        { ...descriptorOf(amd64), platform: { architecture: 'amd64', os: 'linux' } },
        { ...descriptorOf(arm64), platform: { architecture: 'arm64', os: 'linux' } },
        ...attestations.map((it, position) => ({
          ...descriptorOf(it),
          annotations: {
            'vnd.docker.reference.digest': [amd64, arm64][position]?.digest,
            'vnd.docker.reference.type': 'attestation-manifest',
          },
          platform: { architecture: 'unknown', os: 'unknown' },
        })),
      ],
    }),
    '1',
  )
  put(index, '1.1')
  put(index, 'latest')

  const file = put(content('text/plain', Buffer.from(words)))
  const titled = { ...descriptorOf(file), annotations: { [TITLE]: 'words.txt' } }
  const artifact = { artifactType: 'application/x.words', config: descriptorOf(EMPTY), layers: [titled] }
  put(manifestOf(artifact), 'files')

  const refer = (subject: Content, artifactType: string): Content => {
    const statement = put(content(artifactType, Buffer.from(JSON.stringify({ words, artifactType }))))
    const layer = { ...descriptorOf(statement), annotations: { [TITLE]: 'statement.json' } }
    const members = {
      artifactType,
      config: descriptorOf(EMPTY),
      layers: [layer],
      subject: descriptorOf(subject),
    }
    const referrer = put(manifestOf(members))
    if (!referrersApi) {
      const manifests = [{ ...descriptorOf(referrer), artifactType }]
      const members = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests }
      put(json(MEDIA_TYPES.ociIndex, members), subject.digest.replace(':', '-'))
    }
    return referrer
  }
  const signature = refer(index, SIGNATURE)
  const sbom = refer(amd64, SBOM)
  // As cosign 2 signs: under a tag of its own.
  const older = put(content('application/vnd.dev.cosign.simplesigning.v1+json', Buffer.from(words)))
  put(
    manifestOf({ config: descriptorOf(EMPTY), layers: [descriptorOf(older)] }),
    `${index.digest.replace(':', '-')}.sig`,
  )
  return { index, amd64, signature, sbom, words, contents: shelf }
}

/** A chart in all its versions, as `helm push` leaves it. Its name is the last part of the repository's. */
export function stockChart(upstream: UpstreamSimulator, repository: string): readonly Content[] {
  const name = repository.split('/').at(-1) ?? ''
  return CHART_VERSIONS.flatMap((version) => {
    const about = { apiVersion: 'v2', name, version, description: `this is ${repository}` }
    const files = {
      [`${name}/Chart.yaml`]: Buffer.from(JSON.stringify(about)),
      [`${name}/templates/words.yaml`]: Buffer.from(
        `apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {words: "${about.description}"}\n`,
      ),
    }
    const config = json('application/vnd.cncf.helm.config.v1+json', about)
    const chart = content('application/vnd.cncf.helm.chart.content.v1.tar+gzip', gzipSync(tarOf(files)))
    const manifest = manifestOf({ config: descriptorOf(config), layers: [descriptorOf(chart)] })
    for (const blob of [config, chart]) upstream.addBlob(repository, blob)
    upstream.holdings.addManifest(repository, version, manifest)
    return [config, chart, manifest]
  })
}

/** What buildx writes beside each image of an index. */
function attestation(of: Content, words: string, put: (it: Content) => Content): Content {
  const type = 'application/vnd.in-toto+json'
  const statement = put(
    json(type, { _type: 'https://in-toto.io/Statement/v0.1', words, subject: [of.digest] }),
  )
  const rootfs = { type: 'layers', diff_ids: [statement.digest] }
  const config = put(json(CONFIG, { architecture: 'unknown', os: 'unknown', config: {}, rootfs }))
  const predicate = { 'in-toto.io/predicate-type': 'https://slsa.dev/provenance/v0.2' }
  const layer = { ...descriptorOf(statement), annotations: predicate }
  return manifestOf({ config: descriptorOf(config), layers: [layer] })
}

function isManifest({ mediaType }: Content): boolean {
  return mediaType === MEDIA_TYPES.ociManifest || mediaType === MEDIA_TYPES.ociIndex
}

function manifestOf(members: Record<string, unknown>): Content {
  return json(MEDIA_TYPES.ociManifest, { schemaVersion: 2, mediaType: MEDIA_TYPES.ociManifest, ...members })
}

function json(mediaType: string, value: Record<string, unknown>): Content {
  return content(mediaType, Buffer.from(JSON.stringify(value)))
}

function tarOf(files: Record<string, Buffer>): Buffer {
  const entries = Object.entries(files).flatMap(([name, bytes]) => [
    tarHeader(name, bytes.length, new Date(0)),
    bytes,
    tarPadding(bytes.length),
  ])
  return Buffer.concat([...entries, END_OF_ARCHIVE])
}
