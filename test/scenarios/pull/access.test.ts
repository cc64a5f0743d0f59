/** Within one upstream: one file per digest, but what a repository may read is its own. */
import { test } from 'tap'
import { eventually, settled } from '../../support/app.ts'
import { image, index } from '../../support/images.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'

test('a manifest held for one repository is asked for, by HEAD, under another', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const { hub, get } = await startTwoUpstreams(t, {
    now: () => clock.now,
    cache: { negativeTtl: '30s', prefetch: 'off' },
  })
  const app = image({ layers: [100], seed: 'app' })
  hub.addImage('team/one', '1', app)
  hub.addImage('team/two', 'x', image({ seed: 'x' }))
  const { digest, bytes } = app.manifest
  await eventually('it is kept', async () => (await get('team/one/manifests/1')).cache === 'hit')

  t.equal((await get(`team/two/manifests/${digest}`)).status, 404)
  t.equal(hub.log.count({ kind: 'manifest', method: 'HEAD', repo: 'team/two', ref: digest }), 1)
  const asked = hub.log.count()
  t.equal((await get(`team/two/manifests/${digest}`)).status, 404)
  t.equal(hub.log.count(), asked, 'the no is remembered')

  clock.now += 30_001
  hub.addImage('team/two', '2', app)
  const gets = hub.log.count({ kind: 'manifest', method: 'GET' })
  const granted = await get(`team/two/manifests/${digest}`)
  t.equal(granted.status, 200)
  t.ok(granted.body.equals(bytes))
  t.equal(granted.headers['content-type'], app.manifest.mediaType)
  t.equal(hub.log.count({ kind: 'manifest', method: 'GET' }), gets, 'its bytes were here')
  await eventually('it is its own now', async () => {
    const before = hub.log.count()
    return (await get(`team/two/manifests/${digest}`)).cache === 'hit' && hub.log.count() === before
  })
  await hub.stop()
  t.equal((await get(`team/two/manifests/${digest}`)).status, 200, 'for good')
})

test('the child manifests of an index are readable after the index, without upstream', async (t) => {
  const child = image({ layers: [100], seed: 'child' })
  const inner = index({ images: { amd64: child } })
  const outer = index({ images: { all: inner } })
  const { hub, get, mirror } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  hub.addImage('team/app', '1', outer)
  const all = [...outer.manifests.map(({ digest }) => `manifests/${digest}`), 'manifests/1']
  const blobs = outer.blobs.map(({ digest }) => `blobs/${digest}`)
  for (const path of [...all.toReversed(), ...blobs]) {
    t.equal((await get(`team/app/${path}`)).status, 200)
  }
  await settled(mirror)
  for (const path of all) {
    await eventually('it is kept', async () => (await get(`team/app/${path}`)).cache === 'hit')
  }
  await hub.stop()
  for (const path of [...all, ...blobs]) t.equal((await get(`team/app/${path}`)).cache, 'hit')

  // An index of another repository that names a child which this upstream delivered opens it there.
  await hub.start()
  hub.addImage('team/other', '1', inner)
  t.equal((await get('team/other/manifests/1')).status, 200)
  const asked = hub.log.count()
  t.equal((await get(`team/other/manifests/${child.manifest.digest}`)).status, 200)
  t.equal((await get(`team/other/blobs/${child.layers[0]!.digest}`)).status, 200)
  t.equal(hub.log.count(), asked, 'what it delivered once it need not confirm')
})

test('sharedBlobAcrossRepos: a blob of another is read once upstream has given it this name, too', async (t) => {
  const app = image({ layers: [200_000], seed: 'app' })
  const { hub, get, head, mirror } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  hub.addImage('team/one', '1', app)
  hub.addImage('team/two', '1', image({ seed: 'x' }))
  const { digest, bytes } = app.layers[0]!
  t.equal((await get(`team/one/blobs/${digest}`)).status, 200)
  await settled(mirror)
  for (const headers of [{}, { range: 'bytes=0-9' }, { 'if-none-match': `"${digest}"` }]) {
    t.equal((await get(`team/two/blobs/${digest}`, headers)).status, 404)
  }
  t.equal((await head(`team/two/blobs/${digest}`)).status, 404)
  hub.fault({ kind: 'blob', repo: 'team/two' }, { status: 403 })
  t.equal((await get(`team/two/blobs/${digest}`)).status, 403)
  hub.rules.clear()
  hub.addBlob('team/two', app.layers[0]!)
  const granted = await get(`team/two/blobs/${digest}`)
  t.equal(granted.cache, 'hit')
  t.ok(granted.body.equals(bytes))
  t.equal(hub.log.count({ kind: 'blob', method: 'GET', status: 200 }), 1)
})

test('while it is on its way, a blob is no more readable than when it is here', async (t) => {
  const app = image({ layers: [3_000_000], seed: 'app' })
  const { hub, get, head } = await startTwoUpstreams(t, { simulated: { bytesPerSecond: 1_500_000 } })
  hub.addImage('team/one', '1', app)
  hub.addImage('team/two', '1', image({ seed: 'x' }))
  const { digest } = app.layers[0]!
  const whole = get(`team/one/blobs/${digest}`)
  await hub.log.until((log) => log.bytesSent('blob') > 0)
  t.equal((await head(`team/two/blobs/${digest}`)).status, 404)
  t.equal((await get(`team/two/blobs/${digest}`)).status, 404)
  t.equal((await get(`team/two/blobs/${digest}`, { range: 'bytes=0-9' })).status, 404)
  t.equal((await head(`team/one/blobs/${digest}`)).cache, 'join')
  t.equal((await whole).status, 200)
})

for (const [what, behaviour, status] of [
  ['does not have', {}, 404],
  ['denies', { status: 403 }, 403],
] as const) {
  test(`a repository whose upstream ${what} a blob does not spoil it for another that waits for it`, async (t) => {
    const app = image({ layers: [200_000], seed: 'app' })
    const { hub, get } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
    hub.addImage('team/one', '1', image({ seed: 'x' }))
    hub.addImage('team/two', '1', app)
    const { digest, bytes } = app.layers[0]!
    await get('team/two/manifests/1')
    hub.fault({ kind: 'blob', repo: 'team/one' }, { latencyMs: 400, ...behaviour })
    const refused = get(`team/one/blobs/${digest}`)
    await hub.log.until((log) => log.count({ kind: 'blob', repo: 'team/one' }) > 0)
    const waiting = get(`team/two/blobs/${digest}`)
    t.equal((await refused).status, status)
    const pulled = await waiting
    t.equal(pulled.status, 200)
    t.ok(pulled.body.equals(bytes))
  })
}

test('"no such repository" in the words of Docker Hub is 404 for blobs, too', async (t) => {
  const { hub, get, head } = await startTwoUpstreams(t, { simulated: { token: { hideUnknown: true } } })
  const app = image({ layers: [100], seed: 'app' })
  hub.addImage('team/app', '1', app)
  for (const name of ['docker.io/team/nothing', 'team/nothing']) {
    const answer = await get(`${name}/blobs/${app.layers[0]!.digest}`)
    t.equal(answer.status, 404)
    t.equal(codeOf(answer), 'NAME_UNKNOWN')
    t.equal((await head(`${name}/blobs/${app.layers[0]!.digest}`)).status, 404)
  }
  await eventually('it is kept', async () => (await get('team/app/manifests/1')).cache === 'hit')
  hub.deleteRepository('team/app')
  hub.tokens.revokeTokens()
  t.equal((await get(`team/app/blobs/${image({ seed: 'other' }).layers[0]!.digest}`)).status, 403)
})
