/**
 * What is kept beside images: attestations in their index, signatures and the like that refer to them, and charts.
 *
 * The same arguments always give the same bytes, as with images.
 */
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import { content, descriptorOf, randomBytesOf, type Content, type Image } from './images.ts'

/** In the words of the image specification: two bytes that stand for no config at all. */
const EMPTY = content('application/vnd.oci.empty.v1+json', Buffer.from('{}'))

export const SIGSTORE_BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json'
export const NOTATION_SIGNATURE = 'application/vnd.cncf.notary.signature'
export const SPDX = 'application/spdx+json'

/** An index as buildx makes it: behind the images come their attestations, each for a platform that nobody has. */
export function attestedIndex(images: Readonly<Record<string, Image>>): Image & {
  readonly attestations: readonly Image[]
} {
  const children = Object.entries(images)
  const [first] = children
  if (first === undefined) throw new Error('an index names at least one image')
  const attestations = children.map(([, child]) => attestationOf(child))
  const manifest = manifestOf(MEDIA_TYPES.ociIndex, {
    manifests: [
      ...children.map(([architecture, child]) => ({
        ...descriptorOf(child.manifest),
        platform: { architecture, os: 'linux' },
      })),
      ...children.map(([, child], position) => ({
        ...descriptorOf((attestations[position] ?? child).manifest),
        annotations: {
          'vnd.docker.reference.digest': child.manifest.digest,
          'vnd.docker.reference.type': 'attestation-manifest',
        },
        platform: { architecture: 'unknown', os: 'unknown' },
      })),
    ],
  })
  const all = [...children.map(([, child]) => child), ...attestations]
  return {
    manifest,
    manifests: [...all.flatMap((it) => it.manifests), manifest],
    blobs: [...new Map(all.flatMap((it) => it.blobs).map((it) => [it.digest, it])).values()],
    config: first[1].config,
    layers: first[1].layers,
    attestations,
  }
}

/** A statement each about where an image comes from, and what is in it. */
function attestationOf({ manifest: subject }: Image): Image {
  const statements = ['https://slsa.dev/provenance/v0.2', 'https://spdx.dev/Document'].map(
    (predicateType) => ({
      predicateType,
      statement: json('application/vnd.in-toto+json', {
        _type: 'https://in-toto.io/Statement/v0.1',
        predicateType,
        subject: [{ digest: subject.digest }],
      }),
    }),
  )
  const layers = statements.map(({ statement }) => statement)
  const config = json('application/vnd.oci.image.config.v1+json', {
    architecture: 'unknown',
    os: 'unknown',
    config: {},
    rootfs: { type: 'layers', diff_ids: layers.map(({ digest }) => digest) },
  })
  const manifest = manifestOf(MEDIA_TYPES.ociManifest, {
    config: descriptorOf(config),
    layers: statements.map(({ predicateType, statement }) => ({
      ...descriptorOf(statement),
      annotations: { 'in-toto.io/predicate-type': predicateType },
    })),
  })
  return { manifest, manifests: [manifest], blobs: [config, ...layers], config, layers }
}

export interface ArtifactOptions {
  /** Default: none, as cosign's own tags have it. */
  readonly artifactType?: string
  readonly subject?: Content
  /** Media type of its one layer. */
  readonly layerType: string
  /** Default: none worth the name. */
  readonly configType?: string
  /** Bytes of the layer. */
  readonly size?: number
  readonly seed: string
}

/** An image manifest that is no image: a signature, an SBOM, a chart. */
export function artifact(options: ArtifactOptions): Image {
  const { artifactType, subject, layerType, configType, size = 200, seed } = options
  const config = configType === undefined ? EMPTY : json(configType, { name: seed })
  const layer = content(layerType, randomBytesOf(size, seed))
  const manifest = manifestOf(MEDIA_TYPES.ociManifest, {
    ...(artifactType === undefined ? {} : { artifactType }),
    config: descriptorOf(config),
    layers: [descriptorOf(layer)],
    ...(subject === undefined ? {} : { subject: descriptorOf(subject) }),
  })
  return { manifest, manifests: [manifest], blobs: [config, layer], config, layers: [layer] }
}

/** As cosign 3 signs. */
export function bundleOf(subject: Content): Image {
  return artifact({
    artifactType: SIGSTORE_BUNDLE,
    layerType: SIGSTORE_BUNDLE,
    subject,
    seed: `bundle ${subject.digest}`,
  })
}

/** As notation signs. */
export function notationOf(subject: Content): Image {
  const seed = `notation ${subject.digest}`
  return artifact({ artifactType: NOTATION_SIGNATURE, layerType: 'application/jose+json', subject, seed })
}

/** As `oras attach` attaches an SBOM. */
export function sbomOf(subject: Content): Image {
  return artifact({ artifactType: SPDX, layerType: SPDX, subject, seed: `sbom ${subject.digest}` })
}

/** As cosign 2 signs: under a tag of its own, and without a subject. */
export function simpleSignatureOf(subject: Content): Image {
  return artifact({
    layerType: 'application/vnd.dev.cosign.simplesigning.v1+json',
    configType: 'application/vnd.oci.image.config.v1+json',
    seed: `simple ${subject.digest}`,
  })
}

/** What `helm push` makes of a chart. */
export function chart(version: string, seed = ''): Image {
  return artifact({
    layerType: 'application/vnd.cncf.helm.chart.content.v1.tar+gzip',
    configType: 'application/vnd.cncf.helm.config.v1+json',
    size: 3_000,
    seed: `chart ${version} ${seed}`,
  })
}

/** Where clients look when a registry has no referrers API; spec: distribution-spec § Referrers tag schema. */
export function fallbackTag(subject: Content): string {
  return subject.digest.replace(':', '-')
}

/** What they find there. */
export function fallbackIndex(referrers: readonly Image[]): Content {
  return manifestOf(MEDIA_TYPES.ociIndex, {
    manifests: referrers.map(({ manifest }) => {
      const { artifactType } = JSON.parse(manifest.bytes.toString()) as { artifactType?: string }
      return { ...descriptorOf(manifest), ...(artifactType === undefined ? {} : { artifactType }) }
    }),
  })
}

function manifestOf(mediaType: string, members: Record<string, unknown>): Content {
  return json(mediaType, { schemaVersion: 2, mediaType, ...members })
}

function json(mediaType: string, value: unknown): Content {
  return content(mediaType, Buffer.from(JSON.stringify(value)))
}
