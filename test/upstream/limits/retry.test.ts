import { createServer } from 'node:net'
import { test } from 'tap'
import { parseRetryAfter } from '../../../src/upstream/limits/retry.ts'
import { HAP429 } from '../../support/faults/transport.ts'
import {
  bytesOf,
  clientFor,
  connect,
  failureOf,
  LATEST,
  NAME,
  valueOf,
} from '../../support/upstream-client.ts'

void test('a stumble is got over, and counted', async (t) => {
  for (const behaviour of [
    { status: 502, body: 'html' },
    { status: 503 },
    { status: 504, body: 'empty' },
    { emptyReply: true },
  ] as const) {
    const { client, upstream, image, metrics, signal } = await connect(t, { token: {}, cdn: {} })
    for (const kind of ['manifest', 'token', 'blob', 'cdn'] as const) {
      upstream.fault({ kind, times: 1 }, behaviour)
    }
    t.ok(await client.manifest(NAME, LATEST, signal))
    const blob = await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
    t.equal((await bytesOf(blob)).length, 100_000)
    t.equal(await valueOf(metrics.upstreamRetries, { upstream: 'docker.io' }), 4)
  }
})

void test('what stays is given up after the third try', async (t) => {
  const { client, upstream, signal } = await connect(t)
  const rule = upstream.fault({ kind: 'manifest' }, { status: 503 })
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure: 'broken', status: 503 })
  t.equal(rule.hits, 3)
})

void test('one of several parts is asked for once: whoever wants it asks for fewer', async (t) => {
  for (const behaviour of [{ status: 503 }, { status: 502 }, { connReset: true }] as const) {
    const { client, upstream, image, signal } = await connect(t)
    const { digest } = image.layers[0]!
    const rule = upstream.fault({ kind: 'blob' }, behaviour)
    await failureOf(client.blob(NAME, digest, { from: 5, to: 9, partialOnly: true, signal }))
    t.equal(rule.hits, 1)
    await failureOf(client.blob(NAME, digest, { from: 5, to: 9, signal }))
    t.equal(rule.hits, 1 + 3)
  }
})

void test('what will not get better is not tried again', async (t) => {
  for (const status of [400, 404, 429, 500]) {
    const { client, upstream, signal } = await connect(t)
    const rule = upstream.fault({ kind: 'manifest' }, { status, body: 'html' })
    await failureOf(client.manifest(NAME, LATEST, signal))
    t.equal(rule.hits, 1, String(status))
  }
})

void test('an upstream that wants a long pause gets it', async (t) => {
  const { client, upstream, signal } = await connect(t)
  for (const [status, failure] of [
    [503, 'broken'],
    [429, 'busy'],
  ] as const) {
    const rule = upstream.fault({ kind: 'manifest' }, { status, retryAfter: 60 })
    t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure, retryAfterMs: 60_000 })
    t.equal(rule.hits, 1)
    rule.remove()
  }
})

void test('a pause between two tries ends when the caller leaves', async (t) => {
  const { upstream } = await connect(t)
  const client = clientFor(t, { url: upstream.url, backoffMs: 1e9 })
  upstream.fault({ kind: 'manifest' }, { status: 503 })
  const leaving = new AbortController()
  const asked = client.manifest(NAME, LATEST, leaving.signal)
  await upstream.log.until((log) => log.entries[0]?.endedAt !== undefined)
  const reason = new Error('enough')
  leaving.abort(reason)
  await t.rejects(asked, reason)
})

void test('an upstream that is down is unreachable, and the same client finds it again', async (t) => {
  const clock = { now: 0 }
  const { client, upstream, metrics, signal } = await connect(t, {}, { now: () => clock.now })
  await client.manifest(NAME, LATEST, signal)
  await upstream.stop()
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), {
    failure: 'unreachable',
    status: undefined,
  })
  t.ok((await valueOf(metrics.upstreamRequests, { code: 'unreachable' })) >= 3)
  await upstream.start()
  clock.now += 10_000
  t.ok(await client.manifest(NAME, LATEST, signal), 'when it is asked again')
})

void test('a kept-alive connection that closes as it is used again is replaced without a word', async (t) => {
  const { upstream, signal } = await connect(t)
  const client = clientFor(t, { url: upstream.url, maxConnections: 1, backoffMs: 1e9 })
  await client.manifest(NAME, LATEST, signal)
  upstream.fault({ kind: 'manifest', times: 1 }, { emptyReply: true })
  t.ok(await client.manifest(NAME, LATEST, signal), 'at once, not after a pause')
})

/** A server whose answer is these bytes, whatever is asked. */
async function speaking(t: Parameters<typeof clientFor>[0], answer: string): Promise<string> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => socket.end(answer, 'latin1'))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`
}

void test('what is not HTTP is an unusable answer', async (t) => {
  const { signal } = new AbortController()
  for (const answer of [
    'HTTP/1.1 200 OK\nContent-Type: text/plain\n\nfine\n',
    'SSH-2.0-OpenSSH_9.2\r\n',
    `HTTP/1.1 200 OK\r\nX-Long: ${'x'.repeat(100_000)}\r\n\r\n`,
    'HTTP/1.1 999 Whatever\r\nContent-Length: 0\r\n\r\n',
  ]) {
    const client = clientFor(t, { url: await speaking(t, answer) })
    t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'broken', answer.slice(0, 40))
  }
})

void test('bareLfHeaders: a limit that no parser can read is one all the same', async (t) => {
  const { client, upstream, signal } = await connect(t)
  const rule = upstream.fault({}, { raw: { bytes: HAP429 } })
  const failure = await failureOf(client.manifest(NAME, LATEST, signal))
  t.match(failure, { failure: 'busy', retryAfterMs: 60_000 })
  t.equal(rule.hits, 1)
})

void test('Retry-After in seconds, as a date, or not at all', (t) => {
  const now = Date.parse('2026-11-01T12:00:00Z')
  for (const [header, expected] of [
    [undefined, undefined],
    ['0', 0],
    ['120', 120_000],
    [' 1.5 ', 1500],
    ['Sun, 01 Nov 2026 12:01:00 GMT', 60_000],
    ['Sun, 01 Nov 2026 11:59:00 GMT', undefined],
    ['-5', undefined],
    ['soon', undefined],
    ['', undefined],
    ['99999999999999999999', undefined],
  ] as const) {
    t.equal(parseRetryAfter(header, now), expected, String(header))
  }
  t.end()
})
