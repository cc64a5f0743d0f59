/**
 * Answers that say the wrong thing, or say it oddly.
 */
import { image, schema1, type Image } from '../images.ts'
import type { ManifestOptions } from '../upstream-manifests.ts'
import type { Behaviour } from '../upstream-rules.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../upstream.ts'
import { ODD_BODIES } from './bodies.ts'
import { HOSTILE_MANIFESTS } from './hostile-manifests.ts'
import type { Fault } from './fault.ts'

/** A trait of the registry: nobody should notice. */
function trait(name: string, options: UpstreamOptions, endings: Fault['endings'] = {}): Fault {
  return { name, section: '4.5', begin: (upstream) => upstream.set(options), endings }
}

const HEAD_MODES = ['405', '401', '403', '404', 'noLength', 'noDigest', 'hang'] as const
const CONTENT_TYPE_MODES = ['charset', 'octet', 'json', 'textPlain', 'missing'] as const

const TRAITS: readonly Fault[] = [
  trait('noDigestHeader: get', { noDigestHeader: 'get' }),
  trait('noDigestHeader: head', { noDigestHeader: 'head' }),
  trait('wrongDigestHeader', { wrongDigestHeader: true }, { cold: ['refused'] }),
  ...HEAD_MODES.map((headMode) => trait(`headMode: ${headMode}`, { headMode })),
  trait('blobHead401', { blobHead401: true }),
  ...CONTENT_TYPE_MODES.map((contentTypeMode) =>
    trait(`contentTypeMode: ${contentTypeMode}`, { contentTypeMode }),
  ),
  trait('weakEtag', { weakEtag: true }),
  trait('noEtag', { noEtag: true }),
  trait('etag304', { etag304: true }),
  trait('acceptStrict', { acceptStrict: true }),
  trait('acceptConverts: schema1', { acceptConverts: 'schema1' }),
  trait('acceptConverts: amd64Child', { acceptConverts: 'amd64Child' }),
]

/** What registries and what stands before them add to any answer. */
export const ODD_HEADERS: Readonly<Record<string, string | string[]>> = {
  warning: '299 - "this registry is going away"',
  'set-cookie': ['session=secret; Path=/', 'more=1'],
  'alt-svc': 'h3=":443"; ma=2592000',
  'x-registry-supports-signatures': '1',
  'strict-transport-security': 'max-age=31536000',
  via: '1.1 varnish',
  server: 'nginx',
}

function oddHeaders(): Fault {
  return {
    name: 'warningHeader, setCookie, altSvc, xRegistrySupportsSignatures',
    section: '4.5',
    begin: (upstream) => {
      upstream.fault({}, { headers: ODD_HEADERS })
    },
    endings: {},
  }
}

/** Another image takes the place of what is there; returns it. */
function other(seed: string): Image {
  return image({ layers: [2000, 300], seed: `other ${seed}` })
}

function tagsOf(upstream: UpstreamSimulator, repo: string): string[] {
  return [...upstream.holdings.repository(repo).tags.keys()]
}

const MOVES: readonly Fault[] = [
  {
    name: 'tagMoves',
    section: '4.5',
    begin: (upstream, { repo }) => {
      for (const tag of tagsOf(upstream, repo)) upstream.moveTag(repo, tag, other('moved'))
    },
    endings: {},
  },
  {
    name: 'tagMovesBetweenHeadAndGet',
    section: '4.5',
    begin: (upstream, { repo }) => {
      const [second, third] = [other('second'), other('third')]
      const tags = tagsOf(upstream, repo)
      for (const tag of tags) upstream.moveTag(repo, tag, second)
      const moveOn = (): boolean => {
        for (const tag of tags) upstream.moveTag(repo, tag, third)
        upstream.deleteManifest(repo, second.manifest.digest)
        return false
      }
      upstream.fault({ kind: 'manifest', method: 'GET', ref: second.manifest.digest, when: moveOn }, {})
    },
    endings: {},
  },
  {
    name: 'tagFlapping',
    section: '4.5',
    begin: (upstream, { repo, image: held }) => {
      const flapping: NonNullable<ManifestOptions['tagFlapping']> = Object.fromEntries(
        tagsOf(upstream, repo).map((tag) => [`${repo}:${tag}`, [other('flapping'), held]]),
      )
      upstream.addImage(repo, undefined, other('flapping'))
      upstream.set({ tagFlapping: flapping })
    },
    endings: {},
  },
]

const DELETIONS: readonly Fault[] = [
  {
    name: 'deletedUpstream: tag',
    section: '4.5',
    begin: (upstream, { repo }) => {
      for (const tag of tagsOf(upstream, repo)) upstream.deleteTag(repo, tag)
    },
    endings: { cold: ['refused'], stale: ['refused'] },
  },
  {
    name: 'deletedUpstream: manifest',
    section: '4.5',
    begin: (upstream, { repo, image: held }) => {
      for (const { digest } of held.manifests) upstream.deleteManifest(repo, digest)
    },
    endings: { cold: ['refused'], stale: ['refused'] },
  },
  {
    name: 'deletedUpstream: blob',
    section: '4.5',
    begin: (upstream, { repo, image: held }) => {
      for (const { digest } of held.layers) upstream.deleteBlob(repo, digest)
    },
    endings: { cold: ['refused'], 'in flight': ['broken'] },
  },
  {
    name: 'deletedUpstream: repo',
    section: '4.5',
    begin: (upstream, { repo }) => upstream.deleteRepository(repo),
    endings: { cold: ['refused'], stale: ['refused'], 'in flight': ['broken'] },
  },
]

/** Of all that is tried one by one elsewhere, a few that stand for the others. */
const SOME_BODIES = ['html 404', 'html 502', 'empty errors', 'TAG_EXPIRED', 'METHOD NOT ALLOWED']
const SOME_BOMBS = ['brackets', 'layers of nothing']

/** What is said of manifests and blobs in place of an OCI error. A 404 that proves nothing is none. */
const NON_JSON_ERRORS: readonly Fault[] = ODD_BODIES.filter(({ name }) => SOME_BODIES.includes(name)).map(
  ({ name, status, text, type, absent }) => ({
    name: `nonJsonErrors: ${name}`,
    section: '4.5',
    begin: (upstream) => {
      upstream.fault({ kind: ['manifest', 'blob'] }, { status, body: { text, type } })
    },
    endings: {
      cold: ['refused'],
      stale: absent ? ['refused'] : ['served'],
      'in flight': ['broken'],
    },
  }),
)

function onManifests(name: string, behaviour: Behaviour): Fault {
  return {
    name,
    section: '4.5',
    begin: (upstream) => {
      upstream.fault({ kind: 'manifest' }, behaviour)
    },
    endings: { cold: ['refused'] },
  }
}

const MiB = 1024 * 1024

const MANIFESTS: readonly Fault[] = [
  onManifests('manifestTooBig: 8 MiB', { replace: Buffer.alloc(8 * MiB, '{'), digestHeader: 'none' }),
  onManifests('manifestTooBig: infinite', { infinite: true, digestHeader: 'none' }),
  ...HOSTILE_MANIFESTS.filter(({ name }) => SOME_BOMBS.includes(name)).map(({ name, bytes }) =>
    onManifests(`jsonBomb: ${name}`, { replace: bytes, digestHeader: 'none' }),
  ),
  {
    name: 'schema1Only',
    section: '4.5',
    begin: (upstream, { repo }) => {
      const old = schema1()
      for (const tag of tagsOf(upstream, repo)) upstream.holdings.addManifest(repo, tag, old)
    },
    endings: { cold: ['refused'] },
  },
]

export const CONTENT_FAULTS: readonly Fault[] = [
  ...TRAITS,
  oddHeaders(),
  ...MOVES,
  ...DELETIONS,
  ...NON_JSON_ERRORS,
  ...MANIFESTS,
]
