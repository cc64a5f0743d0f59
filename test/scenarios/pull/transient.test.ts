/** A layer that is larger than all of the budget: one download for everybody who is there, and nothing afterwards. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { request } from 'undici'
import { refresh } from '../../../src/admin/cli/refresh.ts'
import { eventually, pull, pullSame, pullSome, settled } from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import type { Content } from '../../support/images.ts'
import { shortDir } from '../../support/programs.ts'
import { said, setUp, storedFiles } from '../../support/trouble.ts'

const MiB = 1024 * 1024
const LARGE = 6 * MiB

async function world(t: Test, cache: Record<string, unknown> = {}) {
  const it = await setUp(t, [LARGE, 30_000, 40_000], {
    upstream: { bytesPerSecond: 24 * MiB },
    mirror: { cache: { maxSize: '4MiB', prefetch: 'off', ...cache } },
  })
  const [large, small] = it.layers as [Content, Content]
  const downloads = (): number => it.upstream.log.count({ kind: 'blob', method: 'GET', ref: large.digest })
  const nothingStays = async (): Promise<void> => {
    await settled(it.mirror)
    t.same(await storedFiles(it.mirror, 'ingest'), [])
    t.notOk((await storedFiles(it.mirror, 'blobs')).includes(large.digest.slice('sha256:'.length)))
    await eventually('every file is closed', () => it.disk.opened === 0)
    t.same(said(it.mirror, 'warn'), [])
    t.same(said(it.mirror, 'error'), [])
  }
  return { ...it, large, small, downloads, nothingStays }
}

test('forty clients, one after the other, cost one download, and its file goes with the last', async (t) => {
  const { upstream, url, tag, large, small, downloads, nothingStays } = await world(t)
  await pull(tag)
  // Who has it all before the last has come keeps it there, for one is slower than that.
  const slow = await request(url(large), { highWaterMark: 1 })
  const pulling = []
  for (let client = 1; client < 39; client += 1) {
    pulling.push(pullSame(url(large), large))
    await upstream.log.until(
      (log) =>
        log.bytesSent('blob') >= (client * LARGE) / 30 || downloads() > 1 || log.inFlight('blob') === 0,
    )
  }
  const pulled = await Promise.all(pulling)
  t.ok(pulled.every(({ status, same }) => status === 200 && same))
  pulled.push(await pullSame(url(large), large))
  t.ok(pulled.at(-1)?.same, 'also for one who comes when everything is here')
  t.same(new Set(pulled.map((it) => it.cache)), new Set(['join']))
  t.ok(Buffer.from(await slow.body.arrayBuffer()).equals(large.bytes))
  t.equal(downloads(), 1)
  t.equal(upstream.log.bytesSent('blob'), LARGE, 'not a byte more')
  await nothingStays()
  t.ok((await pullSame(url(large), large)).same)
  t.equal(downloads(), 2)
  t.ok((await pullSame(url(small), small)).same)
  await nothingStays()
  t.equal((await pullSame(url(small), small)).cache, 'hit', 'what may stay stays beside it')
})

for (const told of [true, false]) {
  test(`a size that ${told ? 'upstream tells' : 'nobody tells'} is as good as one in a manifest`, async (t) => {
    const { upstream, url, large, downloads, nothingStays } = await world(t)
    if (!told) upstream.fault({ kind: 'blob' }, { noContentLength: true })
    const pulled = await Promise.all([1, 2, 3].map(() => pullSame(url(large), large)))
    t.ok(pulled.every(({ same, broken }) => same && !broken))
    t.equal(downloads(), 1)
    await nothingStays()
  })
}

test('when everybody has left it is given up, and no part of it is kept', async (t) => {
  const { upstream, url, tag, large, downloads, nothingStays } = await world(t)
  upstream.set({ bytesPerSecond: 3 * MiB })
  await pull(tag)
  await Promise.all([pullSome(url(large), MiB), pullSome(url(large), 1.5 * MiB)])
  await upstream.log.until((log) => log.inFlight('blob') === 0)
  t.ok(upstream.log.bytesSent('blob') < LARGE)
  await nothingStays()
  upstream.set({ bytesPerSecond: undefined })
  t.ok((await pullSame(url(large), large)).same)
  t.equal(downloads(), 2)
  t.notOk(
    upstream.log.of('blob').some(({ headers }) => headers.range !== undefined),
    'from its beginning',
  )
  await nothingStays()
})

test('the index never hears of it, not even from who joins under another name when all of it is here', async (t) => {
  const { mirror, upstream, url, tag, big, large, nothingStays } = await world(t)
  upstream.addImage('library/other', '1', big)
  await pull(tag)
  await pull(`${mirror.url}/v2/library/other/manifests/1`)
  const slow = await request(url(large), { highWaterMark: 1 })
  // Nobody has its end before all of it has been verified.
  t.ok((await pullSame(url(large), large)).same)
  const other = await pullSame(`${mirror.url}/v2/library/other/blobs/${large.digest}`, large)
  t.match(other, { same: true, cache: 'join' })
  t.ok(Buffer.from(await slow.body.arrayBuffer()).equals(large.bytes))
  await nothingStays()
  t.equal(await mirror.app.metadata.blobs.size(large.digest), undefined)
})

test('a refresh says that it cannot stay, and waits for nobody', async (t) => {
  const { mirror, tag, large, small, nothingStays } = await world(t)
  await pull(tag)
  const { tags } = mirror.app.metadata
  const key = { registry: 'docker.io', name: 'library/big' as never }
  await eventually('its tag is remembered', async () => (await tags.get(key, '1' as never)) !== undefined)
  const file = join(shortDir(t), 'config.yaml')
  writeFileSync(file, JSON.stringify({ storage: { root: mirror.root } }))
  const edge = recordedEdge()
  t.equal(await refresh(['library/big:1'], { config: file }, edge), 1)
  const told = [...edge.printed, ...edge.complaints].join('\n')
  t.match(told, new RegExp(`${large.digest.slice(0, 19)}.* larger than the budget`))
  await nothingStays()
  t.equal((await mirror.app.metadata.blobs.size(small.digest)) ?? 0, small.bytes.length, 'the rest has come')
})

test('it is not fetched ahead for nobody', async (t) => {
  const { mirror, upstream, url, tag, layers, large, downloads } = await world(t, { prefetch: 'layers' })
  await pull(tag)
  // Who asks for two cold layers wants the others too.
  for (const small of layers.slice(1)) await pullSame(url(small), small)
  await settled(mirror)
  t.equal(downloads(), 0)
  t.ok((await pullSame(url(large), large)).same)
  t.equal(downloads(), 1)
  t.equal(upstream.log.inFlight('blob'), 0)
})

test('wrong bytes are fetched once more before anybody hears of it, here as well', async (t) => {
  const { upstream, url, tag, large, mirror } = await world(t)
  await pull(tag)
  const rule = upstream.fault({ kind: 'blob', nth: 1 }, { corrupt: 'tail' })
  const pulled = await Promise.all([1, 2, 3].map(() => pullSame(url(large), large)))
  t.ok(pulled.every(({ same }) => same))
  rule.remove()
  await settled(mirror)
  t.same(await storedFiles(mirror, 'ingest'), [])
  t.same(said(mirror, 'error'), [])
})
