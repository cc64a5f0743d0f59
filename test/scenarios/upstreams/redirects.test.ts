/** Where upstream sends us, how far we go, and what we take along: never our credentials. */
import { test, type Test } from 'tap'
import { eventually, isWhole, pull, settled, simulate } from '../../support/app.ts'
import { Trials, type Seen, type Trial } from '../../support/trials.ts'
import type { CdnOptions } from '../../support/upstream-cdn.ts'

type Row = Trial & { title: string; check?: (t: Test, seen: Seen) => void }

const CDN = { kind: 'cdn' } as const

function through(title: string, cdn: CdnOptions, more: Partial<Row> = {}): Row {
  return {
    title,
    begin: (upstream) => {
      upstream.set({ cdn })
    },
    ends: 'served',
    ...more,
  }
}

/** Every question began at the registry, and led to a place of its own. */
const eachAnew = (t: Test, { requests }: Seen) => {
  const places = requests.filter(({ kind }) => kind === 'cdn').map(({ url }) => url)
  t.equal(new Set(places).size, places.length)
  t.ok(requests.filter(({ kind }) => kind === 'blob').length >= places.length)
}
const neverAtACdn = (t: Test, { requests }: Seen) => {
  t.ok(requests.every(({ kind }) => kind !== 'cdn'))
}

const ROWS: readonly Row[] = [
  ...([301, 302, 303, 307, 308] as const).map((status): Row =>
    through(
      `redirectBlobsToCdn: ${status}: over three hops, and the client sees none of it`,
      { status, hops: 3 },
      {
        check: (t, { pulled, requests }) => {
          t.ok(pulled.every(({ headers }) => headers['location'] === undefined))
          t.ok(pulled.every(({ headers }) => headers['cache-control'] !== 'max-age=31536000'))
          t.same(
            requests.map(({ kind }) => kind),
            ['blob', 'hop', 'hop', 'cdn'],
          )
        },
      },
    ),
  ),
  through(
    'redirectBlobsToCdn: relative: it stays at the registry',
    { location: 'relative' },
    {
      check: (t, { requests }) => {
        t.ok(requests.every(({ listener }) => listener === 'registry'))
      },
    },
  ),
  through('redirectBlobsToCdn: schemeRelative', { location: 'schemeRelative' }),
  through('redirectBlobsToCdn: eleven hops are too many', { hops: 11 }, { ends: 503, check: neverAtACdn }),
  through('redirectBlobsToCdn: loop', { hops: 2, loop: true }, { ends: 503, check: neverAtACdn }),
  through('redirectBlobsToCdn: to nowhere', { location: 'missing' }, { ends: 503 }),
  through('redirectBlobsToCdn: to garbage', { location: 'garbage' }, { ends: 503 }),
  through('redirectBlobsToCdn: with credentials of its own, it would refuse ours', {
    rejectAuthorization: true,
  }),
  through('redirectBlobsToCdn: signed addresses are not kept for a year, whatever is said', {
    expireSignedUrlDuringBody: true,
  }),
  through(
    'expireSignedUrlDuringBody: every cut is continued at a new address',
    { expireSignedUrlDuringBody: true, hops: 2 },
    {
      faults: [[CDN, { dropAfterBytes: 150_000 }]],
      check: (t, seen) => {
        eachAnew(t, seen)
        t.ok(seen.ranges.length >= 7)
        t.ok(seen.ranges.slice(1).every((range) => /^bytes=[1-9]\d*-999999$/.test(range ?? '')))
      },
    },
  ),
  through(
    'expireSignedUrlDuringBody: an address that is dead on arrival is asked for once more',
    {},
    {
      faults: [
        [CDN, { dropAfterBytes: 300_000, how: 'fin' }],
        [{ kind: 'cdn', every: 2 }, { cdnError: '403xml' }],
      ],
      check: deadOnArrival,
    },
  ),
  ...(['403xml', '400xmlTwoAuth'] as const).map((cdnError) =>
    through(
      `cdnError: ${cdnError}: not our client's to hear of, and asked twice`,
      {},
      {
        faults: [[CDN, { cdnError }]],
        ends: 503,
        check: (t, { requests }) => {
          t.equal(requests.filter(({ kind }) => kind === 'cdn').length, 2)
        },
      },
    ),
  ),
  through(
    'cdnError: 503SlowDown: a stumble is got over',
    {},
    {
      faults: [[{ kind: 'cdn', times: 2 }, { cdnError: '503SlowDown' }]],
    },
  ),
  ...[1_000_000, 30_000, 75].map((size) =>
    through(
      `cdnError: html200: a captive portal's page is no blob (of ${size} bytes)`,
      {},
      {
        faults: [[CDN, { cdnError: 'html200' }]],
        size,
        ends: 502,
      },
    ),
  ),
  through(
    'cdnError: html200: not even where nobody knows the size',
    {},
    {
      faults: [[CDN, { cdnError: 'html200' }]],
      unknownSize: true,
      ends: 502,
      check: (t, { pulled }) => {
        // Told by its type, not by its digest: two clients need not come at the same moment.
        t.ok(pulled.every(({ body }) => body.includes('something else than what was asked for')))
      },
    },
  ),
  through(
    'cdnError: html200: in the middle of a body, for a moment',
    {},
    {
      faults: [
        [CDN, { dropAfterBytes: 400_000 }],
        [{ kind: 'cdn', nth: 2 }, { cdnError: 'html200' }],
      ],
    },
  ),
  through(
    'redirectToPrivateIp: the metadata of a cloud is not ours to fetch',
    { location: 'privateIp' },
    {
      ends: 503,
      check: (t, { requests }) => {
        t.equal(requests.length, 1, 'and it is not tried again')
      },
    },
  ),
  through(
    'cdnNoDigestNoLength: clients get both all the same',
    { anonymousBodies: true },
    {
      check: (t, { pulled, layer }) => {
        t.ok(pulled.every(({ headers }) => Number(headers['content-length']) === layer.bytes.length))
      },
    },
  ),
]

function deadOnArrival(t: Test, seen: Seen): void {
  t.ok(seen.requests.filter(({ status }) => status === 403).length > 1)
  t.ok(seen.ranges.every((range, position) => position === 0 || range !== undefined))
}

test('where one upstream sends one mirror', async (t) => {
  const world = await Trials.start(t, { upstream: { token: {}, cdn: {} } })
  for (const { title, check, ...trial } of ROWS) {
    await t.test(title, async (t) => {
      const end: Trial['end'] = (upstream) => {
        upstream.set({ cdn: {} })
      }
      check?.(t, await world.run(t, { ...trial, end }))
    })
  }
  await t.test('nothing of all that is left', (t) => world.close(t))
})

test('getOnlySignature: a HEAD is answered, and no CDN is asked by HEAD', async (t) => {
  const world = await Trials.start(t, { upstream: { token: {}, cdn: { getOnlySignature: true } } })
  const { repo, layer } = world.add()
  const url = `${world.mirror.url}/v2/${repo}/blobs/${layer.digest}`
  for (const cache of ['miss', 'miss', 'hit']) {
    if (cache === 'hit') {
      t.ok(isWhole(await pull(url), layer))
      await settled(world.mirror)
    }
    const head = await pull(url, {}, 'HEAD')
    t.match(head, { status: 200, cache, headers: { 'content-length': '1000000' } })
  }
  t.equal(world.upstream.log.authorizationSeenBy('cdn'), 0)
  t.equal(world.upstream.log.count({ kind: 'cdn', method: 'HEAD' }), 0)
})

test('redirectManifests: the repository is the one that was asked for', async (t) => {
  const world = await Trials.start(t, { upstream: { redirectManifests: true, cdn: { hops: 2 } } })
  const { repo, layer } = world.add()
  const base = `${world.mirror.url}/v2/${repo}`
  const manifest = await pull(`${base}/manifests/1`)
  t.match(manifest, { status: 200, cache: 'miss' })
  t.match(manifest.headers['docker-content-digest'], /^sha256:/)
  t.ok(isWhole(await pull(`${base}/blobs/${layer.digest}`), layer))
  t.ok(world.upstream.log.count({ kind: 'manifest', listener: 'cdn', repo }) > 0)
  t.equal((await pull(`${base}/manifests/2`)).status, 404, 'its absence is told from there')
  await eventually('all is written down', async () => {
    const again = [await pull(`${base}/manifests/1`), await pull(`${base}/blobs/${layer.digest}`)]
    return again.every(({ cache }) => cache === 'hit')
  })
  t.equal((await pull(`${world.mirror.url}/v2/mirrored/images/${repo}/manifests/1`)).status, 404)
})

test('elsewhere: a vanity name in front of a registry with tokens of its own', async (t) => {
  const there = await simulate(t, { token: {}, cdn: {} })
  const world = await Trials.start(t, { upstream: { elsewhere: ({ url }) => there.url + url } })
  const { repo, layer } = world.add()
  there.holdings.repositories.set(repo, world.upstream.holdings.repository(repo))
  const base = `${world.mirror.url}/v2/${repo}`
  t.match(await pull(`${base}/manifests/1`, {}, 'HEAD'), { status: 200 })
  t.match(await pull(`${base}/manifests/1`), { status: 200, cache: 'miss' })
  const blob = await pull(`${base}/blobs/${layer.digest}`)
  t.equal(blob.status, 200)
  t.ok(isWhole(blob, layer))
  t.equal((await pull(`${base}/tags/list`)).status, 200)
  t.equal((await pull(`${base}/manifests/2`)).status, 404, 'an absence is told from there')
  await settled(world.mirror)
  there.set({ token: { insufficientScope: { repos: [repo] } } })
  there.tokens.revokeTokens()
  const refused = await pull(`${base}/blobs/sha256:${'1'.repeat(64)}`)
  t.equal(refused.status, 403)
})
