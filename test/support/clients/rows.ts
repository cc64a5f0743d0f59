/**
 * The rows of the table of clients: who does what with which image, and what came of it before.
 */
import {
  attestedIndex,
  bundleOf,
  chart,
  fallbackIndex,
  fallbackTag,
  notationOf,
  sbomOf,
  simpleSignatureOf,
} from '../artifacts.ts'
import { image, type Image } from '../images.ts'
import type { UpstreamSimulator } from '../upstream.ts'
import { CLIENTS } from './all.ts'
import type { Client } from './client.ts'
import { containerd24 } from './containerd.ts'
import { cosign } from './cosign.ts'
import { crane, craneDigest, craneLs } from './crane.ts'
import { docker29, docker29All, docker29Prefix } from './docker29.ts'
import { dockerd28 } from './dockerd.ts'
import { helmRange, notation, orasDiscover } from './oras.ts'
import { podman } from './podman.ts'
import { skopeoInspect, skopeoListTags } from './skopeo.ts'

/** `quay.io` has no referrers API here, and lists its tags in pages. */
export type Registry = 'docker.io' | 'quay.io'
export type Verb = 'pull' | 'inspect' | 'list' | 'verify'

/** What one row is about, in a repository of its own. */
export interface Subject {
  readonly hold: (upstream: UpstreamSimulator, repository: string) => void
  /** Digests of all that the client must have in the end. */
  readonly digests: readonly string[]
  /** As the client must be told them, where it asks at all. */
  readonly tags?: readonly string[]
  readonly referrers?: readonly string[]
}

export interface Row {
  readonly name: string
  readonly verb: Verb
  readonly client: Client
  readonly registry: Registry
  /** Who asked for it before; `nobody`: it is not here. */
  readonly broughtBy: Client | 'nobody'
  /** The client keeps what it has from its first pull, and only looks whether that is still it. */
  readonly again: boolean
  readonly subject: Subject
}

export const TAG = '1'
/** The first is larger than a piece of a parallel download. */
const LAYERS = [300_000, 20_000, 1_000]

type Options = Partial<Pick<Row, 'registry' | 'broughtBy' | 'again'>>

function row(verb: Verb, client: Client, make: (seed: string) => Subject, options: Options = {}): Row {
  const { registry = 'docker.io', broughtBy = client, again = false } = options
  const words = [
    client.name,
    ...(registry === 'docker.io' ? [] : ['no referrers API']),
    ...(again ? ['again'] : []),
    ...(make === signedPull ? ['signed'] : []),
    ...(make === bySimpleSignature ? ['tag .sig'] : []),
    ...(make === byBundleOfOneLayer ? ['one layer'] : []),
    ...(broughtBy === client ? [] : [broughtBy === 'nobody' ? 'not here' : `after ${broughtBy.name}`]),
  ]
  const name = words.join(', ')
  return { name, verb, client, registry, broughtBy, again, subject: make(`${verb} ${name}`) }
}

function attested(seed: string, layers: readonly number[] = LAYERS): ReturnType<typeof attestedIndex> {
  const arm64 = image({ layers: [2_000], architecture: 'arm64', seed: `${seed} arm64` })
  return attestedIndex({ amd64: image({ layers, seed }), arm64 })
}

/** The index, the image for amd64, and all of that. */
function digestsOf(index: Image): string[] {
  const [amd64] = index.manifests
  return [index.manifest, amd64, index.config, ...index.layers].flatMap((it) => it?.digest ?? [])
}

function everythingOf({ manifests, blobs }: Image): string[] {
  return [...manifests, ...blobs].map(({ digest }) => digest)
}

function pull(seed: string): Subject {
  const index = attested(seed)
  return {
    hold: (upstream, repository) => upstream.addImage(repository, TAG, index),
    digests: digestsOf(index),
  }
}

/** With the attestation, which only Docker 29 pulls. */
function attestedPull(seed: string): Subject {
  const index = attested(seed)
  return {
    ...pull(seed),
    digests: [...digestsOf(index), ...index.attestations.slice(0, 1).flatMap(everythingOf)],
  }
}

/** With a signature of the attestation, which the client pulls as well. */
function signedPull(seed: string): Subject {
  const index = attested(seed)
  const [attestation = index] = index.attestations
  const bundle = bundleOf(attestation.manifest)
  return {
    hold: (upstream, repository) => {
      upstream.addImage(repository, TAG, index)
      refer(upstream, repository, attestation, [bundle])
    },
    digests: [...digestsOf(index), ...everythingOf(attestation), ...everythingOf(bundle)],
  }
}

/** Where there is no API, clients keep them under a tag. */
function refer(
  upstream: UpstreamSimulator,
  repository: string,
  { manifest }: Image,
  referrers: readonly Image[],
): void {
  for (const referrer of referrers) upstream.addImage(repository, undefined, referrer)
  upstream.holdings.addManifest(repository, fallbackTag(manifest), fallbackIndex(referrers))
}

const TAGS = ['1', '2', '3', 'latest']

function tagged(digests: (index: Image) => string[], tags: readonly string[] = TAGS) {
  return (seed: string): Subject => {
    const index = attested(seed)
    return {
      hold: (upstream, repository) => {
        for (const tag of TAGS) upstream.addImage(repository, tag, index)
      },
      digests: digests(index),
      tags,
    }
  }
}

/** Its name is all that the client asks for. */
function named(seed: string): Subject {
  return { ...pull(seed), digests: [] }
}

function inspectedOf(index: Image): string[] {
  const [amd64] = index.manifests
  return [index.manifest, amd64, index.config].flatMap((it) => it?.digest ?? [])
}

function nothingOf(): string[] {
  return []
}

function allTags(seed: string): Subject {
  return { ...tagged(nothingOf)(seed), digests: attestedPull(seed).digests }
}

function charts(seed: string): Subject {
  const versions = ['1.2.0', '1.10.3', '2.0.0'].map((version) => [version, chart(version, seed)] as const)
  return {
    hold: (upstream, repository) => {
      for (const [version, it] of versions) upstream.addImage(repository, version, it)
    },
    digests: versions.filter(([version]) => version === '1.10.3').flatMap(([, it]) => everythingOf(it)),
    tags: ['1.10.3', '1.2.0', '2.0.0'],
  }
}

/** Signed in every way that refers to it, with an SBOM beside. */
function signed(
  needed: (index: Image, bundle: Image, notation: Image) => string[],
  layers: readonly number[] = LAYERS,
) {
  return (seed: string): Subject => {
    const index = attested(seed, layers)
    const [bundle, notation, sbom] = [bundleOf, notationOf, sbomOf].map((of) => of(index.manifest))
    if (bundle === undefined || notation === undefined || sbom === undefined) throw new Error('three of them')
    const signedSbom = bundleOf(sbom.manifest)
    return {
      hold: (upstream, repository) => {
        upstream.addImage(repository, TAG, index)
        refer(upstream, repository, index, [bundle, notation, sbom])
        refer(upstream, repository, sbom, [signedSbom])
      },
      digests: needed(index, bundle, notation),
    }
  }
}

function bundleIn({ manifest }: Image, bundle: Image): string[] {
  return [manifest, bundle.manifest, ...bundle.layers].map(({ digest }) => digest)
}

const byBundle = signed(bundleIn)
/** Many images have but one layer, and no second one that is asked for. */
const byBundleOfOneLayer = signed(bundleIn, [5_000])
const byNotation = signed((_, __, { manifest, layers }) => [manifest, ...layers].map(({ digest }) => digest))

function discovered(seed: string): Subject {
  const { manifest } = attested(seed)
  const sbom = sbomOf(manifest)
  return {
    ...signed(nothingOf)(seed),
    referrers: [bundleOf(manifest), notationOf(manifest), sbom, bundleOf(sbom.manifest)].map(
      (it) => it.manifest.digest,
    ),
  }
}

/** As cosign 2 did it. */
function bySimpleSignature(seed: string): Subject {
  const index = attested(seed)
  const signature = simpleSignatureOf(index.manifest)
  return {
    hold: (upstream, repository) => {
      upstream.addImage(repository, TAG, index)
      upstream.addImage(repository, `${fallbackTag(index.manifest)}.sig`, signature)
    },
    digests: [index.manifest, signature.manifest, ...signature.layers].map(({ digest }) => digest),
  }
}

const NO_API: Options = { registry: 'quay.io' }
const BROUGHT: Options = { broughtBy: containerd24 }
const NOT_HERE: Options = { broughtBy: 'nobody' }
const DOCKERS: readonly Client[] = [docker29, docker29Prefix]

/** Each was asked for before by the same client, in the same way. */
const OWN: readonly Row[] = [
  ...CLIENTS.map((client) => row('pull', client, DOCKERS.includes(client) ? attestedPull : pull)),
  ...DOCKERS.map((client) => row('pull', client, attestedPull, NO_API)),
  ...[{}, NO_API].map((options) => row('pull', docker29Prefix, signedPull, options)),
  ...[{}, NO_API].map((options) => row('pull', docker29Prefix, attestedPull, { ...options, again: true })),
  row('inspect', skopeoInspect, tagged(inspectedOf)),
  row('inspect', skopeoInspect, tagged(inspectedOf), NO_API),
  row('inspect', craneDigest, named),
  ...[craneLs, skopeoListTags].flatMap((client) =>
    [{}, NO_API].map((options) => row('list', client, tagged(nothingOf), options)),
  ),
  row('list', docker29All, allTags),
  row('list', helmRange, charts),
  row('list', helmRange, charts, NO_API),
  ...[{}, NO_API].flatMap((options) => [
    row('verify', cosign, byBundle, options),
    row('verify', notation, byNotation, options),
    row('verify', orasDiscover, discovered, options),
  ]),
  row('verify', cosign, bySimpleSignature),
]

/** Another client pulled it, and that is all that was ever asked. */
const AHEAD: readonly Row[] = [
  ...DOCKERS.map((client) => row('pull', client, attestedPull, BROUGHT)),
  row('pull', docker29Prefix, attestedPull, { ...BROUGHT, ...NO_API }),
  ...[{}, NO_API].map((options) => row('pull', docker29Prefix, signedPull, { ...BROUGHT, ...options })),
  ...[dockerd28, podman, crane].map((broughtBy) => row('pull', docker29Prefix, attestedPull, { broughtBy })),
  // What nobody ever listed is what is here.
  row('inspect', skopeoInspect, tagged(inspectedOf, [TAG]), BROUGHT),
  row('list', craneLs, tagged(nothingOf, [TAG]), BROUGHT),
  row('verify', cosign, byBundle, BROUGHT),
  row('verify', cosign, byBundleOfOneLayer, BROUGHT),
  row('verify', cosign, byBundle, { ...BROUGHT, ...NO_API }),
  row('verify', notation, byNotation, BROUGHT),
]

/** Nobody asked for it, and nobody can be asked: that is to be said, and nothing else. */
const UNKNOWN: readonly Row[] = [
  row('pull', docker29Prefix, attestedPull, NOT_HERE),
  row('inspect', skopeoInspect, tagged(inspectedOf), NOT_HERE),
  row('list', craneLs, tagged(nothingOf), NOT_HERE),
  row('verify', cosign, byBundle, NOT_HERE),
]

export const ROWS: readonly Row[] = [...OWN, ...AHEAD, ...UNKNOWN]
