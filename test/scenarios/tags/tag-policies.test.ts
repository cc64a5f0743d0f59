/** Tags that an upstream has deleted, and tags that never move: `on404` and `immutableTags`. */
import path from 'node:path'
import { test } from 'tap'
import { parseRepositoryName, parseTag } from '../../../src/oci/reference.ts'
import { eventually, pull, startMirror } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import { MINUTE, REPO, startTagged } from '../../support/tagged.ts'

const SECOND = 1000
const second = image({ layers: [200], seed: 'second' })

test('on404: keep: a tag that is gone goes on answering, marked stale, and is asked about again in time', async (t) => {
  const options = { cache: { prefetch: 'off', negativeTtl: '30s' }, upstream: { on404: 'keep' } }
  const { upstream, mirror, clock, first, get, head, blob, warm, age, asked } = await startTagged(t, options)
  await warm()
  t.equal((await blob(first.layers[0]!.digest)).status, 200)
  age()
  upstream.deleteTag(REPO, '1')
  const before = [asked('HEAD'), asked('GET')]
  for (let turn = 0; turn < 5; turn += 1) {
    for (const answer of [await get(), await head()]) {
      t.match(answer, {
        status: 200,
        cache: 'stale',
        headers: {
          warning: /^299 - "docker\.io says that this tag is gone/,
          'docker-content-digest': first.manifest.digest,
        },
      })
    }
  }
  t.ok((await get()).body.equals(first.manifest.bytes))
  t.same([asked('HEAD'), asked('GET')], [before[0]! + 1, before[1]! + 1], 'one HEAD, confirmed by one GET')
  t.equal((await blob(first.layers[0]!.digest)).status, 200)
  const record = await mirror.app.metadata.tags.get(
    { registry: 'docker.io', name: parseRepositoryName(REPO) },
    parseTag('1'),
  )
  t.equal(record?.deletedAt, undefined, 'there is no tombstone')

  clock.now += 31 * SECOND
  t.equal((await get()).cache, 'stale')
  t.equal(asked('GET'), before[1]! + 2, 'it is asked about again')
  upstream.addImage(REPO, '1', second)
  clock.now += 31 * SECOND
  t.match(await get(), { cache: 'miss', headers: { 'docker-content-digest': second.manifest.digest } })
  t.equal((await get('2')).status, 404, 'what was never here is not')
  await mirror.close()
})

test('on404: keep: a HEAD that comes first finds it gone as well', async (t) => {
  const { upstream, mirror, get, head, warm, age } = await startTagged(t, { upstream: { on404: 'keep' } })
  await warm()
  age()
  upstream.deleteTag(REPO, '1')
  t.match(await head(), { status: 200, cache: 'stale', headers: { warning: /is gone/ } })
  t.match(await get(), { status: 200, cache: 'stale', headers: { warning: /is gone/ } })
  await mirror.close()
})

test('on404: keep: not even an upstream that fails for long takes it away', async (t) => {
  const { upstream, mirror, clock, get, warm, age } = await startTagged(t, { upstream: { on404: 'keep' } })
  await warm()
  age()
  upstream.deleteTag(REPO, '1')
  t.equal((await get()).cache, 'stale')
  clock.now += 100 * 24 * 60 * MINUTE
  upstream.fault({}, { status: 500 })
  t.match(await get(), { status: 200, cache: 'stale' })
  await mirror.close()
})

test('on404: drop: a tag that is gone is gone', async (t) => {
  const { upstream, mirror, get, head, warm, age } = await startTagged(t)
  await warm()
  age()
  upstream.deleteTag(REPO, '1')
  t.equal((await get()).status, 404)
  t.equal((await head()).status, 404)
  await mirror.close()
})

test('on404: keep: a web page that is 404 proves nothing', async (t) => {
  const { upstream, mirror, get, warm, age } = await startTagged(t, { upstream: { on404: 'keep' } })
  await warm()
  age()
  upstream.fault({ kind: 'manifest' }, { status: 404, body: 'html' })
  t.match(await get(), { status: 200, cache: 'stale', headers: { warning: /cannot be asked/ } })
  await mirror.close()
})

test('immutableTags: what is here is never asked about again, by GET or HEAD, not even after a restart', async (t) => {
  const root = path.join(t.testdir(), 'data')
  const upstreamSettings = { immutableTags: ['v*', '1'] }
  const { upstream, mirror, clock, first, get, head, warm, age, asked } = await startTagged(t, {
    root,
    upstream: upstreamSettings,
  })
  upstream.addImage(REPO, 'latest', first)
  await warm()
  await get('latest')
  await eventually('it is kept', async () => (await get('latest')).cache === 'hit')
  for (let turn = 0; turn < 3; turn += 1) {
    clock.now += 365 * 24 * 60 * MINUTE
    t.match(await get(), { status: 200, cache: 'hit' })
    t.match(await head(), { status: 200, cache: 'hit' })
  }
  t.equal(asked('HEAD'), 0)
  upstream.moveTag(REPO, '1', second)
  upstream.moveTag(REPO, 'latest', second)
  t.match(await get('latest'), { headers: { 'docker-content-digest': second.manifest.digest } })
  t.equal(asked('HEAD'), 1, 'other tags are')
  age()
  await mirror.close()
  upstream.log.clear()
  const again = await startMirror(t, upstream, { root, now: () => clock.now, upstream: upstreamSettings })
  const url = `${again.url}/v2/${REPO}/manifests/1`
  t.match(await pull(url), {
    status: 200,
    cache: 'hit',
    headers: { 'docker-content-digest': first.manifest.digest },
  })
  t.match(await pull(url, {}, 'HEAD'), { status: 200, cache: 'hit' })
  t.equal(upstream.log.count(), 0)
  await mirror.close()
})

test('immutableTags: one that is not here is fetched, and one that is missing is looked for again', async (t) => {
  const { upstream, mirror, clock, get, asked } = await startTagged(t, {
    upstream: { immutableTags: ['v*'] },
  })
  t.equal((await get('v1')).status, 404)
  upstream.addImage(REPO, 'v1', second)
  clock.now += MINUTE
  await eventually('it is looked for again', async () => (await get('v1')).status === 200)
  await eventually('it is kept', async () => (await get('v1')).cache === 'hit')
  clock.now += 24 * 60 * MINUTE
  upstream.deleteTag(REPO, 'v1')
  t.equal((await get('v1')).cache, 'hit')
  t.equal(asked('GET'), 2)
  await mirror.close()
})
