/** A stumbling upstream is not the client's problem; what is beyond help is an honest error. */
import { test, type Test } from 'tap'
import { pull, pullSome, settled } from '../support/app.ts'
import { HAP429 } from '../support/faults/transport.ts'
import { Trials, type Seen, type Trial } from '../support/trials.ts'
import { EXPIRED_CERTIFICATE, OTHER_HOSTS_CERTIFICATE, TEST_KEY } from '../support/upstream-tls.ts'
import { TEST_CA_FILE, TEST_CERTIFICATE } from '../support/upstream-tls.ts'

const MiB = 1024 * 1024
const BLOB = { kind: 'blob' } as const
const PIECE = 300_000
/** The first answer breaks off. */
const CUT = [
  { kind: 'blob', times: 1 },
  { dropAfterBytes: PIECE, how: 'fin' },
] as const

type Row = Trial & { title: string; check?: (t: Test, seen: Seen, world: Trials) => void | Promise<void> }

const asked = (times: number) => (t: Test, seen: Seen) => {
  t.equal(seen.requests.length, times, 'so many requests')
}
const continued = (t: Test, { ranges }: Seen) => {
  t.equal(ranges[0], undefined)
  t.ok(ranges.length > 1)
  t.ok(ranges.slice(1).every((range) => /^bytes=[1-9]\d*-999999$/.test(range ?? '')))
}
/** A part was asked for, was not to be had, and then the whole. */
const wholeAgain = (t: Test, { ranges }: Seen) => {
  t.match(ranges, [undefined, /^bytes=[1-9]\d*-999999$/, undefined])
}
const declaresItsLength = (t: Test, { layer, pulled, requests }: Seen) => {
  t.equal(requests.length, 1)
  t.ok(pulled.every(({ headers }) => Number(headers['content-length']) === layer.bytes.length))
}

const ROWS: readonly Row[] = [
  {
    title: 'latencyMs: what takes its time is waited for',
    faults: [[{}, { latencyMs: 100 }]],
    ends: 'served',
    check: asked(1),
  },
  {
    title: 'ttfbMs: a body that lingers after its head is waited for',
    faults: [[{}, { ttfbMs: 100 }]],
    ends: 'served',
    check: asked(1),
  },
  {
    title: 'hang: headers: an answer that does not come is given up within its time, and not asked for again',
    faults: [[BLOB, { hang: 'headers' }]],
    ends: 503,
    check: asked(1),
  },
  {
    title: 'hang: midBody: a body that stands still is continued by another one',
    faults: [
      [
        { kind: 'blob', times: 1 },
        { hang: 'midBody', hangAfterBytes: PIECE },
      ],
    ],
    ends: 'served',
    check: continued,
  },
  {
    title: 'slowloris: a head that comes byte by byte is given up like one that does not come',
    faults: [[BLOB, { slowloris: { in: 'head', everyMs: 20 } }]],
    ends: 503,
    check: asked(1),
  },
  {
    title: 'slowloris: a body that comes byte by byte is cut and continued',
    faults: [[{ kind: 'blob', times: 1 }, { slowloris: { in: 'body', everyMs: 20, afterBytes: PIECE } }]],
    ends: 'served',
    check: continued,
  },
  ...(['rst', 'fin', 'cleanChunkEnd'] as const).map((how): Row => ({
    title: `dropAfterBytes: ${how}, every time: with progress each time it comes to an end`,
    faults: [[BLOB, { dropAfterBytes: PIECE, how }]],
    ends: 'served',
    check: (t, seen) => {
      continued(t, seen)
      // What was in socket buffers when the connection was reset is lost and comes again.
      if (how !== 'rst') t.equal(seen.requests.length, 4)
    },
  })),
  {
    title:
      "dropAfterBytes: shortContentLength: a length that is not the descriptor's is told before any head",
    faults: [[BLOB, { dropAfterBytes: PIECE, how: 'shortContentLength' }]],
    ends: 502,
  },
  {
    title: 'ignoreRange: what is here of a whole body is skipped',
    faults: [[BLOB, { ignoreRange: true }], CUT],
    ends: 'served',
    check: (t, seen) => {
      continued(t, seen)
      t.equal(seen.requests.length, 2)
    },
  },
  ...Object.entries({
    missing: 'none',
    nonsense: 'nonsense',
    'of another size': ({ start, end, size }: Part) => `bytes ${start}-${end - 1}/${size + 5}`,
    'of a later part': ({ start, end, size }: Part) => `bytes ${start + 9}-${end + 8}/${size + 9}`,
    'of a shorter part': ({ start, size }: Part) => `bytes ${start}-${start + 9}/${size}`,
  }).map(([what, contentRange]): Row => ({
    title: `badContentRange: ${what}: the whole is asked for, and what is here skipped`,
    faults: [[BLOB, { contentRange }], CUT],
    ends: 'served',
    check: wholeAgain,
  })),
  {
    title: 'range416Open: ranges have an end, so nobody notices',
    faults: [[BLOB, { range416Open: true }], CUT],
    ends: 'served',
    check: continued,
  },
  {
    title: 'range416Open: whatever is asked for',
    faults: [[{ kind: 'blob', when: ({ headers }) => headers.range !== undefined }, { status: 416 }], CUT],
    ends: 'served',
    check: wholeAgain,
  },
  {
    title: 'starTotal: a part of an unknown whole is a part',
    faults: [[BLOB, { starTotal: true }], CUT],
    ends: 'served',
    check: continued,
  },
  {
    title: 'multipartAlways: an envelope never gets into the file',
    faults: [[BLOB, { multipartAlways: true }], CUT],
    ends: 'served',
    check: wholeAgain,
  },
  ...[7, -7].map((wrongContentLength): Row => ({
    title: `wrongContentLength: ${wrongContentLength}: an error before any head`,
    faults: [[BLOB, { wrongContentLength }]],
    ends: 502,
  })),
  ...(['chunked', 'close', 'http10', 'trailers'] as const).map((framing): Row => ({
    title: `${{ chunked: 'chunked', close: 'noContentLength', http10: 'http10Close', trailers: 'trailers' }[framing]}: clients get a length all the same`,
    faults: [[BLOB, { framing }]],
    ends: 'served',
    check: declaresItsLength,
  })),
  {
    title: 'http10Close: a body that ends early is continued although its end looks like one',
    faults: [
      [BLOB, { framing: 'http10' }],
      [
        { kind: 'blob', times: 1 },
        { dropAfterBytes: PIECE, how: 'fin' },
      ],
    ],
    ends: 'served',
    check: continued,
  },
  {
    title: 'corruptByteAt: once: it is fetched again, and nobody notices',
    faults: [[{ kind: 'blob', times: 1 }, { corrupt: 'tail' }]],
    ends: 'served',
    check: asked(2),
  },
  ...[
    ['corruptByteAt: always', { corrupt: 'tail' }],
    ['swapBodies', { swapBodies: true }],
    ['truncateButPadZeros', { truncateButPadZeros: true }],
  ].map(([name, behaviour]): Row => ({
    title: `${name as string}: it never arrives whole, is counted, and not asked for a third time`,
    faults: [[BLOB, behaviour as object]],
    ends: 'broken',
    check: async (t, seen, world) => {
      t.equal(seen.requests.length, 2)
      t.ok((await world.sum('entrepot_integrity_failures_total')) >= 2)
    },
  })),
  {
    title: 'swapBodies: a small one is refused',
    faults: [[BLOB, { swapBodies: true }]],
    size: 30_000,
    ends: 502,
    check: asked(2),
  },
  {
    title: 'corruptOnlyOnResume: the whole is fetched once more',
    faults: [[BLOB, { corruptOnlyOnResume: true }], CUT],
    ends: 'served',
    check: (t, { ranges }) => {
      t.match(ranges, [undefined, /^bytes=[1-9]/, undefined])
    },
  },
  {
    title: 'flaky5xx: sequence: a stumble is got over',
    faults: [[BLOB, { sequence: [503, 200] }]],
    ends: 'served',
    check: asked(2),
  },
  {
    title: 'flaky5xx: two pages of a stumbling front are got over',
    faults: [
      [
        { kind: 'blob', times: 2 },
        { status: 502, body: 'html' },
      ],
    ],
    ends: 'served',
    check: asked(3),
  },
  {
    title: 'flaky5xx: always: three tries, and no more',
    faults: [[BLOB, { status: 504, body: 'html' }]],
    ends: 503,
    check: asked(3),
  },
  {
    title: 'retryAfter503: the client is told to wait as long as we are',
    faults: [[BLOB, { status: 503, retryAfter: 120 }]],
    ends: 503,
    check: (t, { requests, pulled }) => {
      t.equal(requests.length, 1)
      t.ok(pulled.every(({ headers }) => Number(headers['retry-after']) === 120))
    },
  },
  {
    title: 'connReset: twice: got over',
    faults: [[{ kind: 'blob', times: 2 }, { connReset: true }]],
    ends: 'served',
  },
  { title: 'connReset: always: given up', faults: [[BLOB, { connReset: true }]], ends: 503 },
  { title: 'emptyReply: given up', faults: [[BLOB, { emptyReply: true }]], ends: 503 },
  {
    title: 'keepAliveRace: one more request, at once, and on a connection of its own',
    faults: [[BLOB, { keepAliveRace: true }]],
    ends: 'served',
    check: async (t, seen, world) => {
      t.equal(seen.requests.length, 2)
      t.equal(await world.sum('entrepot_upstream_retries_total', 'reused-connection'), 1)
    },
  },
  ...[
    ['hugeHeaders: 70 KB', { hugeHeaders: 70_000 }],
    ['hugeHeaders: 300 KB', { hugeHeaders: 300_000 }],
    ['invalidHeaderChars', { spoilHead: 'invalidChars' }],
    ['bareLfHeaders', { spoilHead: 'bareLf' }],
    ['status999', { status: 999, body: 'html' }],
    ['status999: none at all', { spoilHead: 'noStatus' }],
  ].map(([name, behaviour]): Row => ({
    title: `${name as string}: an unusable answer, and no reason to fall over`,
    faults: [[BLOB, behaviour as object]],
    ends: 503,
    check: asked(1),
  })),
  {
    title: 'bareLfHeaders: a limit that no parser can read is one all the same',
    faults: [[BLOB, { raw: { bytes: HAP429 } }]],
    ends: 503,
    check: (t, { requests, pulled }) => {
      t.equal(requests.length, 1)
      t.ok(pulled.every(({ headers }) => Number(headers['retry-after']) === 60))
    },
  },
  ...(['gzip', 'x-gzip', 'zstd'] as const).map((encoding): Row => ({
    title: `${{ gzip: 'gzipEncoding', 'x-gzip': 'xGzip', zstd: 'zstdEncoding' }[encoding]}: decoded, and no client hears of it`,
    faults: [[{}, { encoding }]],
    ends: 'served',
    check: declaresItsLength,
  })),
  {
    title: 'gzipEncoding: a body that breaks off is decoded again from its start',
    faults: [
      [BLOB, { encoding: 'gzip' }],
      [
        { kind: 'blob', times: 1 },
        { dropAfterBytes: PIECE, how: 'fin' },
      ],
    ],
    ends: 'served',
  },
  {
    title: 'infiniteBlob: longer than its descriptor',
    faults: [[BLOB, { infinite: true }]],
    ends: 'broken',
    check: (t, { requests }) => {
      t.equal(requests.length, 1)
      t.ok((requests[0]?.bytesSent ?? 0) < 64 * MiB, 'the connection was closed')
    },
  },
  {
    title: 'infiniteBlob: of a size that nobody knows',
    faults: [[BLOB, { infinite: true }]],
    unknownSize: true,
    ends: 'broken',
    check: (t, { requests, pulled }) => {
      t.equal(requests.length, 1)
      t.ok(pulled.every(({ headers }) => headers['content-length'] === undefined))
    },
  },
  {
    title: 'infiniteBlob: a small one is refused',
    faults: [[BLOB, { infinite: true }]],
    size: 30_000,
    ends: 502,
  },
  {
    title: 'informational: answers before the answer are ignored',
    faults: [[BLOB, { informational: 5 }]],
    ends: 'served',
    check: asked(1),
  },
  {
    title: 'informational: nothing but them is no answer',
    faults: [[BLOB, { informational: 'endless' }]],
    ends: 503,
    check: asked(1),
  },
  {
    title: 'hang: connect: a connection that does not come about is given up',
    begin: (upstream) => upstream.hang('connect'),
    end: (upstream) => upstream.start(),
    ends: 503,
    check: asked(0),
  },
  {
    title: 'refuse: connections that are refused',
    begin: (upstream) => upstream.stop(),
    end: (upstream) => upstream.start(),
    ends: 503,
    check: asked(0),
  },
]

interface Part {
  start: number
  end: number
  size: number
}

test('what goes wrong on the way to one mirror', async (t) => {
  const world = await Trials.start(t, { mirror: { maxUntoldSize: 8 * MiB } })
  for (const { title, check, ...trial } of ROWS) {
    await t.test(title, async (t) => {
      await check?.(t, await world.run(t, trial), world)
    })
  }
  await t.test('nothing of all that is left', (t) => world.close(t))
})

const TLS_ROWS: readonly Row[] = [
  {
    title: 'hang: tls: a handshake that never ends is given up',
    begin: (upstream) => upstream.hang('tls'),
    end: (upstream) => upstream.start(),
    ends: 503,
  },
  ...[
    ['tlsBadCert', OTHER_HOSTS_CERTIFICATE],
    ['tlsExpired', EXPIRED_CERTIFICATE],
  ].map(([name = '', cert = '']): Row => ({
    title: `${name}: whoever shows that is not asked`,
    begin: (upstream) => {
      upstream.useCertificate({ cert, key: TEST_KEY })
    },
    end: (upstream) => {
      upstream.useCertificate({ cert: TEST_CERTIFICATE, key: TEST_KEY })
    },
    ends: 503,
    check: asked(0),
  })),
  {
    title: 'crossSchemeDowngrade: from https to http nobody follows',
    begin: (upstream) => {
      upstream.set({ cdn: { location: 'crossSchemeDowngrade' } })
    },
    end: (upstream) => {
      upstream.set({ cdn: undefined })
    },
    ends: 503,
    check: (t, { requests }) => {
      t.same(
        requests.map(({ listener }) => listener),
        ['registry'],
      )
    },
  },
]

test('what goes wrong with TLS', async (t) => {
  const world = await Trials.start(t, {
    upstream: { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } },
    mirror: { upstream: { ca: TEST_CA_FILE } },
  })
  for (const { title, check, ...trial } of TLS_ROWS) {
    await t.test(title, async (t) => {
      await check?.(t, await world.run(t, trial), world)
    })
  }
  await t.test('nothing of all that is left', (t) => world.close(t))
})

test('bytesPerSecond: clients share one slow transfer, and get bytes as they come', async (t) => {
  const world = await Trials.start(t, { upstream: { bytesPerSecond: 1_000_000 } })
  const { repo, layer } = world.add(1_500_000)
  const url = `${world.mirror.url}/v2/${repo}/blobs/${layer.digest}`
  await Promise.all(Array.from({ length: 10 }, () => pullSome(url, 200_000)))
  t.ok(world.upstream.log.bytesSent(BLOB) < layer.bytes.length, 'it was not waited for')
  t.equal(world.upstream.log.count(BLOB), 1)
  await settled(world.mirror)
  t.equal((await pull(url)).cache, 'hit', 'and it comes to its end although nobody waits')
})

test('upstreamDown: what is cached is served as if nothing were', async (t) => {
  const world = await Trials.start(t)
  const { repo, layer } = world.add()
  const manifest = `${world.mirror.url}/v2/${repo}/manifests/1`
  const url = `${world.mirror.url}/v2/${repo}/blobs/${layer.digest}`
  await pull(manifest)
  await pull(url)
  await settled(world.mirror)
  for (const down of ['stop', 'latency'] as const) {
    if (down === 'stop') await world.upstream.stop()
    else await world.upstream.start()
    world.upstream.fault({}, { latencyMs: 60_000 })
    world.upstream.log.clear()
    t.match(await pull(url), { status: 200, cache: 'hit' }, down)
    t.match(await pull(manifest), { status: 200, cache: 'hit' })
    t.equal(world.upstream.log.count(), 0)
  }
})

test('dnsFail: a host that has no address', async (t) => {
  const world = await Trials.start(t, { mirror: { upstream: { url: 'http://registry.invalid' } } })
  const { repo, layer } = world.add()
  for (const path of ['manifests/1', `blobs/${layer.digest}`]) {
    const { status, body } = await pull(`${world.mirror.url}/v2/${repo}/${path}`)
    t.equal(status, 503)
    t.match(JSON.parse(body.toString()), { errors: [{ code: 'UNAVAILABLE' }] })
  }
  t.equal((await pull(`${world.mirror.url}/v2/`)).status, 200)
})
