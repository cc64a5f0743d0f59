/**
 * What the clients of the field make of the mirror on a good day, and that the emulators keep their own rules.
 */
import { test, type Test } from 'tap'
import { ownFolder, pull, settled, simulate, startMirror, type Mirror } from '../../support/app.ts'
import { attestedIndex } from '../../support/artifacts.ts'
import { CLIENTS } from '../../support/clients/all.ts'
import { run, type Outcome } from '../../support/clients/client.ts'
import { containerd24 } from '../../support/clients/containerd.ts'
import { craneDigest } from '../../support/clients/crane.ts'
import { docker29, docker29Prefix } from '../../support/clients/docker29.ts'
import type { Exchange } from '../../support/clients/wire.ts'
import { image, index, type Image } from '../../support/images.ts'
import { quiet } from '../../support/quiet.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../../support/upstream.ts'

const LAYERS = [700_000, 150_000, 40_000, 1_000]
const AMD64 = image({ layers: LAYERS })
const ARM64 = image({ layers: LAYERS, architecture: 'arm64', seed: 'arm64' })
const GREETING = index({ images: { amd64: AMD64, arm64: ARM64 } })
/** As buildx makes it. */
const ATTESTED = attestedIndex({ amd64: AMD64, arm64: ARM64 })
const NAME = { repository: 'library/greeting', tag: '1' }
/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:1'

async function registry(t: Test): Promise<UpstreamSimulator> {
  const simulator = await simulate(t)
  simulator.addImage(NAME.repository, NAME.tag, GREETING)
  return simulator
}

for (const client of CLIENTS) {
  test(`${client.name} pulls everything from the mirror, cold and warm`, async (t) => {
    const upstream = await registry(t)
    const mirror = await startMirror(t, upstream)
    // There is no other registry to go to.
    const pull = (): Promise<Outcome> => run(client, { mirror: mirror.url, real: NOWHERE, ...NAME })

    const cold = await pull()
    isWhole(t, cold)
    await settled(mirror)
    for (const { digest } of AMD64.blobs) {
      t.equal(upstream.log.count({ kind: 'blob', method: 'GET', ref: digest }), 1, 'a blob is fetched once')
    }
    for (const { digest } of ARM64.blobs) t.equal(upstream.log.count({ ref: digest }), 0, 'and no other')

    const asked = upstream.log.count()
    const warm = await pull()
    isWhole(t, warm)
    t.equal(upstream.log.count(), asked, 'upstream is not asked again')
    for (const exchange of warm.exchanges.filter(({ path }) => path !== '/v2/')) {
      t.equal(exchange.headers['x-cache'], 'hit')
    }
    for (const exchange of [...cold.exchanges, ...warm.exchanges]) hasRightHeaders(t, exchange)
  })
}

function isWhole(
  t: Test,
  { ending, error, share, shelf, exchanges }: Outcome,
  wanted = [GREETING.manifest, AMD64.manifest, ...AMD64.blobs],
): void {
  t.equal(ending, 'pulled', error?.message ?? 'pulled')
  t.equal(share, 1, 'all of it from the mirror')
  t.strictSame([...shelf.contents.keys()].sort(), wanted.map(({ digest }) => digest).sort())
  // Where the mirror knows no such API, Docker goes on to the registry itself.
  t.notOk(exchanges.some(({ endpoint, path }) => endpoint === 'real' && !path.includes('/referrers/')))
}

function hasRightHeaders(t: Test, { method, path, head, status, headers, bytes, ended }: Exchange): void {
  const url = new URL(path, 'http://mirror')
  const range = head.find(([name]) => name === 'Range')?.[1]
  t.ok(status === 200 || (status === 206 && range !== undefined), `${method} ${path}: ${String(status)}`)
  t.equal(headers['content-encoding'], undefined)
  t.equal(headers['www-authenticate'], undefined)
  t.equal(headers['x-registry-supports-signatures'], undefined)
  t.equal(headers['docker-distribution-api-version'], 'registry/2.0')
  t.equal(headers['oci-namespace'], url.searchParams.get('ns') ?? undefined)
  if (url.pathname === '/v2/') return
  const reference = url.pathname.split('/').at(-1) ?? ''
  const found = [...GREETING.manifests, ...GREETING.blobs].find(({ digest }) => digest === reference)
  const content = found ?? GREETING.manifest
  t.equal(headers['docker-content-digest'], content.digest)
  if (method === 'HEAD' || ended === 'whole')
    t.equal(Number(headers['content-length']), method === 'HEAD' ? content.bytes.length : bytes)
  if (url.pathname.includes('/manifests/')) t.equal(headers['content-type'], content.mediaType)
  if (status !== 206) return
  if (range?.includes(',') === true) {
    t.match(headers['content-type'], /^multipart\/byteranges; boundary=/)
    return
  }
  const { length } = content.bytes
  const first = /^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? ''
  t.equal(headers['content-range'], `bytes ${first}-${String(length - 1)}/${String(length)}`)
}

test('crane digest is content with a HEAD', async (t) => {
  const mirror = await startMirror(t, await registry(t))
  const { ending, exchanges } = await run(craneDigest, { mirror: mirror.url, real: NOWHERE, ...NAME })
  t.equal(ending, 'pulled')
  t.strictSame(
    exchanges.map(({ method }) => method),
    ['GET', 'HEAD'],
  )
})

/** What Docker 29 takes of it. */
const WITH_ATTESTATION = [
  ATTESTED.manifest,
  AMD64.manifest,
  ...AMD64.blobs,
  ...ATTESTED.attestations.slice(0, 1).flatMap(({ manifests, blobs }: Image) => [...manifests, ...blobs]),
]
/** Longer than a tag is believed, which is a minute; and longer than "not there" is, which is half of one. */
const LATER_MS = 120_000
const SOON_MS = 45_000

interface Scene {
  readonly upstream: UpstreamSimulator
  readonly clock: { now: number }
  readonly mirror: () => Mirror
  readonly restart: () => Promise<void>
  /** Requests that upstream saw since it was last asked about them, once all is quiet. */
  readonly asked: () => Promise<string[]>
}

async function scene(t: Test, options: UpstreamOptions, cache: Record<string, unknown> = {}): Promise<Scene> {
  const upstream = await simulate(t, options)
  upstream.addImage(NAME.repository, NAME.tag, ATTESTED)
  const clock = { now: Date.now() }
  const root = ownFolder(t)
  const start = (): Promise<Mirror> => startMirror(t, upstream, { root, cache, now: () => clock.now })
  let mirror = await start()
  return {
    upstream,
    clock,
    mirror: () => mirror,
    restart: async () => {
      await mirror.close()
      mirror = await start()
    },
    asked: async () => {
      await quiet(mirror, upstream)
      const urls = upstream.log.of().map(({ method, url, status }) => `${method} ${url} ${String(status)}`)
      upstream.log.clear()
      return urls
    },
  }
}

const REGISTRIES: Readonly<Record<string, UpstreamOptions>> = {
  'with a referrers API': { listEtags: true },
  'without a referrers API': { referrers: 'unsupported' },
}

for (const [kind, options] of Object.entries(REGISTRIES)) {
  for (const client of [docker29, docker29Prefix]) {
    test(`${client.name} that pulls again costs a registry ${kind} nothing, and later a HEAD`, async (t) => {
      const { clock, mirror, restart, asked } = await scene(t, options)
      const pullAgain = async (): Promise<void> => {
        const outcome = await run(client, { mirror: mirror().url, real: NOWHERE, ...NAME })
        isWhole(t, outcome, WITH_ATTESTATION)
      }
      await pullAgain()
      await asked()
      for (const life of ['', ', after a restart']) {
        await pullAgain()
        t.strictSame(await asked(), [], `at once${life}`)
        clock.now += SOON_MS
        await pullAgain()
        t.strictSame(await asked(), [], `as long as the tag is believed${life}`)
        clock.now += LATER_MS
        await pullAgain()
        t.strictSame(await asked(), [`HEAD /v2/${NAME.repository}/manifests/${NAME.tag} 200`], `later${life}`)
        await restart()
      }
    })
  }

  test(`a cache that containerd warmed serves Docker 29 without a registry ${kind}`, async (t) => {
    const { upstream, clock, mirror, restart, asked } = await scene(t, options)
    const where = { real: NOWHERE, ...NAME }
    isWhole(t, await run(containerd24, { mirror: mirror().url, ...where }), [
      ATTESTED.manifest,
      AMD64.manifest,
      ...AMD64.blobs,
    ])
    const urls = await asked()
    const questions = urls.filter((url) => url.includes('/referrers/') || url.includes('/manifests/sha256-'))
    const [attestation, ...others] = ATTESTED.attestations.map(({ manifest }) => manifest.digest)
    for (const subject of [attestation, AMD64.manifest.digest, ATTESTED.manifest.digest]) {
      const about = questions.filter((url) => /[0-9a-f]{64}/.exec(url)?.[0] === subject?.split(':')[1])
      t.ok(
        about.length === (options.referrers === 'unsupported' ? 2 : 1),
        `one question ahead, and the tag where there is no API: ${about.join(', ')}`,
      )
    }
    for (const digest of others)
      t.notOk(
        urls.some((url) => url.includes(digest)),
        'of no other platform',
      )
    for (const { digest } of ARM64.blobs) t.notOk(urls.some((url) => url.includes(digest)))
    await upstream.stop()
    for (const life of ['', ', after a restart']) {
      for (const client of [docker29, docker29Prefix]) {
        clock.now += LATER_MS
        const outcome = await run(client, { mirror: mirror().url, ...where })
        t.equal(outcome.ending, 'pulled', `${client.name}${life}: ${outcome.error?.message ?? ''}`)
        t.equal(outcome.shelf.contents.size, WITH_ATTESTATION.length, `${client.name}${life}`)
      }
      await restart()
    }
  })

  test(`ten who ask for lists at once cost a registry ${kind} one request each`, async (t) => {
    const { upstream, clock, mirror, restart, asked } = await scene(t, options, { prefetch: 'off' })
    const { digest } = AMD64.manifest
    const known = options.listEtags === true
    const questions = {
      'tags/list': 200,
      [`referrers/${digest}`]: known ? 200 : 404,
      [`manifests/${digest.replace(':', '-')}`]: 404,
    }
    upstream.set({ latencyMs: 50 })
    for (const life of ['', ', after a restart']) {
      for (const [path, status] of Object.entries(questions)) {
        // Those that come after the ten find what these have brought.
        for (let times = 1; times <= 2; times += 1) {
          const answers = await Promise.all(
            Array.from({ length: 10 }, () => pull(`${mirror().url}/v2/${NAME.repository}/${path}`)),
          )
          t.strictSame([...new Set(answers.map((it) => it.status))], [status], `${path}${life}`)
          if (status === 200) t.equal(new Set(answers.map((it) => it.body.toString())).size, 1)
        }
      }
      const urls = await asked()
      t.equal(urls.length, 3, `one request for each list${life}: ${urls.join(', ')}`)
      if (known && life !== '') {
        t.equal(urls.filter((url) => url.endsWith(' 304')).length, 2, `what is known is not sent again`)
      }
      await restart()
      clock.now += LATER_MS
    }
  })
}
