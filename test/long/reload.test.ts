/** SIGHUP: a running server goes by another configuration, or stays with the one it has. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { t as file, test, type Test } from 'tap'
import { stringify } from 'yaml'
import { eventually, pull, simulate } from '../support/app.ts'
import { image, layer, type Image } from '../support/images.ts'
import { pushBlob } from '../support/push.ts'
import { Entrepot } from '../support/process.ts'
import { messageOf, codeOf } from '../support/two-upstreams.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

file.setTimeout(600_000)

const READ_AGAIN = 'the configuration was read again'
const OLD_STAYS = 'the configuration was read again, and the old one stays'
const NEXT_START = 'this takes effect with the next start only'

type Settings = Record<string, unknown>

interface Running {
  readonly entrepot: Entrepot
  readonly hub: UpstreamSimulator
  readonly held: Image
  /** The file is this now, and the server has read it. */
  readonly reload: (text: string, ends?: string) => Promise<Settings>
  readonly config: (more?: Settings, upstreams?: Record<string, Settings>) => string
}

async function run(t: Test, more: Settings = {}): Promise<Running> {
  const dir = t.testdir()
  const hub = await simulate(t)
  const held = image({ layers: [3_000_000], seed: 'reload' })
  hub.addImage('library/app', '1', held)
  const settings = (more: Settings, upstreams: Record<string, Settings>): Settings => ({
    upstreams: { 'docker.io': { url: hub.url, default: true }, ...upstreams },
    ...more,
    cache: { tagTtl: 0, prefetch: 'off', ...(more['cache'] as Settings | undefined) },
  })
  const entrepot = await Entrepot.start(t, { dir, config: settings(more, {}) })
  const lines = (msg: string): Settings[] => entrepot.log.filter((line) => line['msg'] === msg)
  return {
    entrepot,
    hub,
    held,
    config: (changed = {}, upstreams = {}) =>
      stringify({
        server: { port: 0 },
        storage: { root: join(dir, 'data') },
        ...settings(changed, upstreams),
      }),
    reload: async (text, ends = READ_AGAIN) => {
      const before = lines(ends).length
      writeFileSync(join(dir, 'config.yaml'), text)
      entrepot.program.kill('SIGHUP')
      await eventually(ends, () => lines(ends).length > before)
      return lines(ends).at(-1) ?? {}
    },
  }
}

async function upstreamHealth({ url }: Entrepot): Promise<unknown> {
  const { body } = await pull(`${url}/readyz`)
  return JSON.parse(body.toString())
}

test('offline is switched on and off', async (t) => {
  const { entrepot, hub, held, reload, config } = await run(t)
  const manifest = `${entrepot.url}/v2/library/app/manifests/1`
  await eventually('it is here', async () => (await pull(manifest)).cache === 'hit')
  const asked = hub.log.count()

  for (const [offline, applied] of [
    [config({ cache: { offline: true } }), ['cache.offline']],
    [
      config({}, { 'docker.io': { url: hub.url, default: true, offline: true } }),
      ['upstreams.docker.io.offline'],
    ],
  ] as const) {
    t.match(await reload(offline), { applied })
    const { status, cache, headers, body } = await pull(manifest)
    t.same({ status, cache, body }, { status: 200, cache: 'stale', body: held.manifest.bytes })
    t.match(headers['warning'], /docker\.io is offline by configuration/)
    const refused = await pull(`${entrepot.url}/v2/library/other/manifests/1`)
    t.equal(refused.status, 503)
    t.match(messageOf(refused), /docker\.io is offline by configuration/)
    t.match(await upstreamHealth(entrepot), {
      status: 'ok',
      upstreams: [{ key: 'docker.io', state: 'offline', message: 'offline by configuration' }],
    })
    t.equal(hub.log.count(), asked, 'nothing is asked')
    t.match(await reload(config()), { applied }, 'and back')
  }
  t.equal((await pull(manifest)).cache, 'hit')
  t.equal(hub.log.count(), asked + 1, 'it is asked again, by one HEAD')
  t.match(await upstreamHealth(entrepot), { upstreams: [{ state: 'ok' }] })
  t.match(await reload(config()), { applied: [] }, 'the same file changes nothing')
})

test('a bad file changes nothing, and is told', async (t) => {
  const { entrepot, hub, reload, config } = await run(t)
  const bad = `${config()}\ncach: {}\nlocal: 7\n`
  t.match(await reload(bad, OLD_STAYS), { level: 'error', problems: [{ path: 'cach' }, { path: 'local' }] })
  t.match(await reload('{ not yaml', OLD_STAYS), { level: 'error', problems: [{}] })
  t.equal((await pull(`${entrepot.url}/v2/library/app/manifests/1`)).status, 200)
  t.equal(hub.log.count('manifest'), 1)
  t.match(
    await reload(config({ log: { level: 'debug' } })),
    { applied: ['log.level'] },
    'the next good one counts',
  )
  t.ok(entrepot.log.every(({ level }) => level !== 'fatal'))
})

test('docker.io is the default until another upstream is, and again when that goes', async (t) => {
  const { entrepot, hub, reload, config } = await run(t)
  const other = await simulate(t)
  other.addImage('library/app', '1', image({ seed: 'of another' }))
  const from = async (): Promise<unknown> => {
    const { headers } = await pull(`${entrepot.url}/v2/library/app/manifests/1`)
    return headers['docker-content-digest'] === image({ seed: 'of another' }).manifest.digest
      ? 'other.test'
      : 'docker.io'
  }
  const mine = { 'docker.io': { url: hub.url } }
  t.match(await reload(config({}, mine)), { applied: [] }, 'it need not be said')
  t.equal(await from(), 'docker.io')
  const another = config({}, { ...mine, 'other.test': { url: other.url, default: true } })
  t.match(await reload(another), { applied: ['upstreams.docker.io.default', 'upstreams.other.test'] })
  t.equal(await from(), 'other.test')
  await reload(config({}, mine))
  t.equal(await from(), 'docker.io')
  const nobody = config({}, { 'docker.io': { url: hub.url, default: false } })
  t.match(await reload(nobody), { applied: ['upstreams.docker.io.default'] })
  t.equal((await pull(`${entrepot.url}/v2/library/app/manifests/1`)).status, 404)
})

test('what only a start can change is told, and stays', async (t) => {
  const { entrepot, reload, config } = await run(t)
  const text = config({ server: { port: 1 }, push: { gcGrace: '48h', deny: [] } })
  t.match(await reload(text, NEXT_START), { level: 'warn', keys: ['server.port', 'push.gcGrace'] })
  t.match(
    entrepot.log.find(({ msg }) => msg === READ_AGAIN),
    { applied: ['push.deny'] },
  )
  t.equal((await pull(`${entrepot.url}/v2/`)).status, 200)
  t.match(await reload(text, NEXT_START), { keys: ['server.port', 'push.gcGrace'] }, 'as long as it is so')
})

test('a pull that runs while its upstream is changed, or taken away, comes to its end', async (t) => {
  const { entrepot, hub, held, reload, config } = await run(t)
  const other = await simulate(t)
  for (const [round, text] of [
    config({}, { 'docker.io': { url: other.url, default: true } }),
    config({ upstreams: {} }),
  ].entries()) {
    await reload(config())
    const big = layer({ size: 3_000_000, seed: `round ${round}` })
    hub.addBlob('library/app', big)
    const slow = hub.fault({ ref: big.digest }, { hangAfterBytes: 1_000_000, hang: 'midBody' })
    const pulled = pull(`${entrepot.url}/v2/library/app/blobs/${big.digest}`)
    await hub.log.until((log) => log.of({ ref: big.digest }).some(({ bytesSent }) => bytesSent >= 1_000_000))
    t.same(
      (await reload(text))['applied'],
      round === 0 ? ['upstreams.docker.io.url'] : ['upstreams.docker.io'],
    )
    slow.remove()
    hub.log.clear()
    // The rest needs another question, to the upstream that the configuration knows no more.
    await hub.stop()
    await hub.start()
    const { status, body, broken } = await pulled
    t.equal(broken, undefined)
    t.equal(status, 200)
    t.ok(body.equals(big.bytes))
    t.match(hub.log.of({ ref: big.digest }), [{ headers: { range: /^bytes=/ } }])
    t.equal(other.log.count(), 0)
  }
  t.ok(held)
})

test('an upstream is added, changed and taken away', async (t) => {
  const { entrepot, hub, held, reload, config } = await run(t)
  const other = await simulate(t)
  other.addImage('team/app', '1', held)
  const base = `${entrepot.url}/v2/team/app/manifests/1?ns=other.test`
  t.equal((await pull(base)).status, 404)

  t.match(await reload(config({}, { 'other.test': { url: other.url } })), {
    applied: ['upstreams.other.test'],
  })
  t.equal((await pull(base)).status, 200)
  t.equal(
    (await pull(`${entrepot.url}/v2/other.test/team/app/manifests/1`)).status,
    200,
    'by its prefix as well',
  )
  const asked = hub.log.count()

  t.match(await reload(config({}, { 'other.test': { url: other.url, deny: ['team/**'] } })), {
    applied: ['upstreams.other.test.deny'],
  })
  t.equal((await pull(base)).status, 403)

  t.match(await reload(config()), { applied: ['upstreams.other.test'] })
  const gone = await pull(base)
  t.equal(gone.status, 404)
  t.equal(codeOf(gone), 'NAME_UNKNOWN', 'what is cached of it is not served either')
  t.match(await upstreamHealth(entrepot), { upstreams: [{ key: 'docker.io' }] })
  t.equal(hub.log.count(), asked, 'all of it is nothing to the others')
  t.equal(await entrepot.metric('entrepot_upstream_breaker_open', { upstream: 'docker.io' }), 0)
})

test('a configuration that would hide what was pushed is refused', async (t) => {
  const { entrepot, reload, config } = await run(t)
  const blob = layer({ size: 1_000, seed: 'pushed' })
  t.equal((await pushBlob(`${entrepot.url}/v2/mine.test/app`, blob)).status, 201)
  const refused = await reload(config({}, { 'mine.test': { url: 'http://127.0.0.1:9' } }), OLD_STAYS)
  t.match(refused, { level: 'error', reason: /hide local repositories: mine\.test\/app/ })
  const kept = await pull(`${entrepot.url}/v2/mine.test/app/blobs/${blob.digest}`)
  t.ok(kept.body.equals(blob.bytes))
})
