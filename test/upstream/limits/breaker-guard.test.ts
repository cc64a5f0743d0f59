/** What a client's questions tell its breaker, and what it does while that is open. */
import { test, type Test } from 'tap'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { createMetrics, type Metrics } from '../../../src/telemetry/metrics.ts'
import { Account, unavailable } from '../../../src/upstream/login/credentials.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'
import {
  bytesOf,
  connect,
  failureOf,
  LATEST,
  NAME,
  type ClientOptions,
  type Connected,
} from '../../support/upstream-client.ts'
import type { UpstreamOptions } from '../../support/upstream.ts'

const OTHER = parseRepositoryName('library/other')
const TIMEOUTS = { connect: 60_000, headers: 400, idle: 60_000 }

interface Scene extends Connected {
  readonly clock: { now: number }
  readonly lines: { level: string; message: string; fields: Record<string, unknown> }[]
  readonly state: () => string | undefined
}

async function scene(
  t: Test,
  upstreamOptions: UpstreamOptions = {},
  options: ClientOptions = {},
): Promise<Scene> {
  const clock = { now: 0 }
  const lines: Scene['lines'] = []
  const at = (level: string) => (fields: object, message: string) =>
    void lines.push({ level, message, fields: { ...fields } })
  const log = { debug: () => undefined, info: at('info'), warn: at('warn') }
  const connected = await connect(t, upstreamOptions, { log, now: () => clock.now, ...options })
  const { client } = connected
  return { ...connected, clock, lines, state: () => client.status().accounts[0]?.breaker.state }
}

/** As a scrape tells it; undefined: it does not. */
async function openFigure({ scrape }: Pick<Metrics, 'scrape'>): Promise<number | undefined> {
  const pattern = /^entrepot_upstream_breaker_open\{upstream="docker\.io",account="anonymous"\} (\d)$/m
  const [, figure] = pattern.exec(await scrape()) ?? []
  return figure === undefined ? undefined : Number(figure)
}

test('who cannot be reached is not dialled again until the time is over', async (t) => {
  const { client, upstream, signal, clock, lines, metrics, state } = await scene(t)
  const labels = { upstream: 'docker.io', account: 'anonymous' }
  t.equal(await openFigure(metrics), 0)
  await upstream.stop()
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { message: /ECONNREFUSED/ })
  t.equal(state(), 'open')
  t.equal(await openFigure(metrics), 1)

  // From here on it would answer: whoever is refused did not dial.
  await upstream.start()
  clock.now += 4_000
  for (const ask of [
    client.manifest(OTHER, LATEST, signal),
    client.headManifest(OTHER, LATEST, signal),
    client.tags(OTHER, new URLSearchParams(), signal),
  ]) {
    t.match(await failureOf(ask), {
      failure: 'unreachable',
      retryAfterMs: 6_000,
      message: /left alone.*ECONNREFUSED/,
    })
  }
  t.equal(upstream.log.count(), 0)

  clock.now += 6_000
  t.ok(await client.manifest(NAME, LATEST, signal), 'then one asks, and it is over')
  t.equal(state(), 'closed')
  t.equal(await openFigure(metrics), 0)
  t.match(
    lines,
    [
      { level: 'warn', message: 'upstream is left alone', fields: { ...labels, why: /ECONNREFUSED/ } },
      { level: 'info', message: 'upstream answers again', fields: labels },
    ],
    'one line for the beginning and one for the end',
  )
  t.equal(lines.length, 2)
})

test('a second try that is answered makes a stumble good', async (t) => {
  const { client, upstream, signal, state } = await scene(t)
  upstream.fault({ kind: 'manifest', times: 2 }, { connReset: true })
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.equal(state(), 'closed')
})

test('no head within the time-out opens it, unless others are answered meanwhile', async (t) => {
  const { client, upstream, image, signal, clock, state } = await scene(t, {}, { timeouts: TIMEOUTS })
  const digest = image.layers[0]!.digest
  upstream.fault({ kind: 'blob' }, { hang: 'headers' })
  const slow = failureOf(client.blob(NAME, digest, { from: 0, signal }))
  await upstream.log.until((log) => log.count('blob') > 0)
  clock.now += 1
  await client.manifest(NAME, LATEST, signal)
  t.match(await slow, { failure: 'unreachable' })
  t.equal(state(), 'closed', 'it does answer')
  clock.now += 1
  await failureOf(client.blob(NAME, digest, { from: 0, signal }))
  t.equal(state(), 'open', 'now it does not')
})

test('the short patience of a HEAD proves nothing', async (t) => {
  const { client, upstream, signal, state } = await scene(t, {}, { timeouts: TIMEOUTS })
  upstream.fault({ kind: 'manifest', method: 'HEAD' }, { hang: 'headers' })
  t.same(await client.headManifest(NAME, LATEST, signal), { result: 'unusable' })
  t.equal(state(), 'closed')
  t.ok(await client.manifest(NAME, LATEST, signal))
})

test('one of several parts that fails proves nothing, and one that comes does', async (t) => {
  const { client, upstream, image, signal, clock, state } = await scene(t)
  const part = { from: 5, to: 9, partialOnly: true, committed: true, signal }
  const ask = (): ReturnType<typeof client.blob> => client.blob(NAME, image.layers[0]!.digest, part)
  await upstream.stop()
  t.match(await failureOf(ask()), { failure: 'unreachable' })
  t.equal(state(), 'closed')
  await failureOf(client.manifest(NAME, LATEST, signal))
  t.equal(state(), 'open')
  clock.now += 10_000
  t.match(await failureOf(ask()), { failure: 'unreachable' })
  t.equal(state(), 'half-open')
  await upstream.start()
  await bytesOf(await ask())
  t.equal(state(), 'closed')
})

test('who leaves proves nothing either', async (t) => {
  const { client, upstream, clock, signal, state } = await scene(t)
  const rule = upstream.fault({ kind: 'manifest' }, { hang: 'headers' })
  // A fallback may have had enough of waiting, in words like those of an upstream.
  const reason = new UpstreamError('unreachable', 'docker.io', 'gone')
  const ask = async (): Promise<void> => {
    const leaving = new AbortController()
    const asked = upstream.log.count()
    const asking = client.manifest(NAME, LATEST, leaving.signal)
    await upstream.log.until((log) => log.count() > asked)
    leaving.abort(reason)
    await t.rejects(asking, { message: 'gone' })
  }
  await ask()
  t.equal(state(), 'closed')
  await upstream.stop()
  await failureOf(client.manifest(NAME, LATEST, signal))
  await upstream.start()
  clock.now += 10_000
  await ask()
  t.equal(state(), 'half-open', 'nor as a probe')
  rule.remove()
  t.ok(await client.manifest(NAME, LATEST, signal), 'another may probe at once')
})

test('server errors: five in a row, of two repositories', async (t) => {
  const { client, upstream, signal, state } = await scene(t)
  upstream.fault({ kind: 'manifest' }, { status: 500 })
  for (let n = 0; n < 5; n++) await failureOf(client.manifest(NAME, LATEST, signal))
  t.equal(state(), 'closed', 'one repository is not the upstream')
  await failureOf(client.manifest(OTHER, LATEST, signal))
  t.equal(state(), 'open')
})

test('refusals, limits and absences are answers', async (t) => {
  for (const status of [401, 403, 404, 429]) {
    const { client, upstream, signal, clock, state } = await scene(t)
    await upstream.stop()
    await failureOf(client.manifest(NAME, LATEST, signal))
    await upstream.start()
    clock.now += 10_000
    upstream.fault({ kind: 'manifest' }, { status })
    await client.manifest(NAME, LATEST, signal).catch(() => undefined)
    t.equal(state(), 'closed', String(status))
  }
})

test('where the registry sends us is not the registry', async (t) => {
  const { client, upstream, image, signal, state } = await scene(t, { cdn: { hops: 1 } })
  const digest = image.layers[0]!.digest
  upstream.fault({ kind: 'cdn' }, { connReset: true })
  t.match(await failureOf(client.blob(NAME, digest, { from: 0, signal })), { failure: 'unreachable' })
  t.equal(state(), 'closed')
})

test('a token service that does not answer is left alone, and the registry is not', async (t) => {
  const { client, upstream, signal, clock, state } = await scene(t, { token: {} })
  await client.manifest(OTHER, LATEST, signal).catch(() => undefined)
  const rule = upstream.fault({ kind: 'token' }, { connReset: true })
  const error = await failureOf(client.manifest(NAME, LATEST, signal))
  t.match(error, { failure: 'unreachable', ofTheTokenService: true, isHostwide: false })
  t.equal(state(), 'closed', 'others, whose tokens are of another service, are asked for')
  const asked = upstream.log.count('token')
  await failureOf(client.manifest(NAME, LATEST, signal))
  t.equal(upstream.log.count('token'), asked, 'nobody waits for what is known to fail')
  rule.remove()
  clock.now += 10_000
  t.ok(await client.manifest(NAME, LATEST, signal), 'then it is asked again')
})

test('credentials that are not to be had are not the fault of the upstream', async (t) => {
  const source = {
    get: () => Promise.reject(unavailable('docker.io', 'the file is gone')),
    rejected: () => undefined,
    close: () => undefined,
  }
  const account = new Account({ key: 'docker.io', source, metrics: createMetrics() })
  const { client, signal, state } = await scene(t, { token: {} }, { account })
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure: 'unreachable' })
  t.equal(state(), 'closed')
})

test('bodies that break off are no business of it', async (t) => {
  const { client, upstream, image, signal, state } = await scene(t)
  upstream.fault({ kind: 'blob' }, { dropAfterBytes: 10 })
  const blob = await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
  await t.rejects(bytesOf(blob))
  t.equal(state(), 'closed')
})

test('what clients were promised is asked for all the same', async (t) => {
  const { client, upstream, image, signal, state } = await scene(t)
  await upstream.stop()
  await failureOf(client.manifest(NAME, LATEST, signal))
  await upstream.start()
  const layer = image.layers[0]!
  await failureOf(client.blob(NAME, layer.digest, { from: 0, signal }))
  t.equal(upstream.log.count(), 0)
  const blob = await client.blob(NAME, layer.digest, { from: 500, committed: true, signal })
  t.equal((await bytesOf(blob)).length, layer.bytes.length - 500)
  t.equal(state(), 'closed')
})

test('a client that is closed takes its figure along', async (t) => {
  const { client, metrics } = await scene(t)
  await client.close()
  t.equal(await openFigure(metrics), undefined)
})

test('that we may open no more connections says nothing of it', async (t) => {
  const failing = (error: Error): ClientOptions['resolve'] => {
    return (_name, _options, done) => done(error, '', 4)
  }
  const limit = (code: string): Error =>
    Object.assign(new Error(`connect ${code}`), { code, syscall: 'connect' })
  for (const error of [
    limit('EMFILE'),
    limit('ENFILE'),
    new AggregateError([limit('ECONNREFUSED'), limit('EMFILE')]),
    new Error('something else', { cause: limit('EMFILE') }),
  ]) {
    const met: string[] = []
    const { client, signal, state, lines } = await scene(
      t,
      {},
      {
        url: 'http://registry.test:1',
        resolve: failing(error),
        openFiles: { met: (what) => void met.push(what) },
      },
    )
    for (let time = 0; time < 6; time++) {
      const failure = await failureOf(client.manifest(NAME, LATEST, signal))
      t.match(failure, {
        outOfFiles: true,
        isHostwide: false,
        message: /was not asked: this process may open no more/,
      })
    }
    t.equal(state(), 'closed')
    t.same(lines, [])
    t.ok(met.length >= 6 && met.every((what) => what === 'upstream'))
  }
})
