/** The cache may never make a pull fail: what the disk will not take is streamed through. */
import { test } from 'tap'
import { request } from 'undici'
import type { Content } from '../support/images.ts'
import { eventually, pull, pullSame, pullSome, settled } from '../support/app.ts'
import type { Operation } from '../support/faulty-files.ts'
import { bypasses, QUIET, REFUSES, said, setUp, storedFiles, WORKS } from '../support/trouble.ts'

const MiB = 1024 * 1024

const REFUSALS: [Operation, string][] = [
  ['create', 'ENOSPC'],
  ['create', 'EROFS'],
  ['create', 'EIO'],
  ['write', 'ENOSPC'],
  ['write', 'EIO'],
]

for (const [operation, code] of REFUSALS) {
  test(`a disk that fails to ${operation} with ${code} fails no pull, and is used again when it works`, async (t) => {
    const { mirror, disk, clock, layers, url, tag, big, upstream } = await setUp(t, [2 * MiB, 30_000])
    const [large, small] = layers as [Content, Content]
    disk.failing.set(operation, code)

    const manifest = await pull(tag)
    t.equal(manifest.status, 200)
    t.ok(manifest.body.equals(big.manifest.bytes))
    for (let round = 0; round < 2; round += 1) {
      const pulled = await Promise.all([large, small, large].map((it) => pullSame(url(it), it)))
      t.ok(
        pulled.every(({ status, same }) => status === 200 && same),
        'all the right bytes',
      )
      t.ok(
        pulled.every(({ cache }) => cache === 'bypass' || (operation === 'write' && round === 0)),
        'and it is said',
      )
    }
    t.ok((await pull(tag)).body.equals(big.manifest.bytes))
    const counted = await bypasses(mirror)
    t.ok(counted > 0, `counted ${counted} times`)
    t.same(said(mirror, 'warn'), [REFUSES], 'warned once')
    t.match((await pull(`${mirror.url}/readyz`)).body.toString(), /bypassed/)

    disk.heal()
    clock.now += QUIET
    t.equal((await pullSame(url(large), large)).cache, 'miss')
    await settled(mirror)
    t.equal((await pullSame(url(large), large)).cache, 'hit')
    // What was refused last may have been heard of after the disk was healed.
    clock.now += QUIET
    t.ok((await pullSame(url(small), small)).same)
    await settled(mirror)
    await upstream.stop()
    t.equal((await pullSame(url(large), large)).cache, 'hit')
    t.same(said(mirror, 'info').filter((it) => it === WORKS).length, 1, 'said once')
    t.same(await storedFiles(mirror, 'ingest'), [], 'no partial stays behind')
    t.same(said(mirror, 'error'), [])
  })
}

const ADOPTIONS: [Operation, string][] = [
  ['rename', 'EIO'],
  ['datasync', 'EIO'],
  ['makeFolder', 'ENOSPC'],
]

for (const [operation, code] of ADOPTIONS) {
  test(`a verified blob that cannot be kept (${operation} ${code}) was served all the same`, async (t) => {
    const { mirror, disk, clock, layers, url } = await setUp(t, [2 * MiB])
    const [layer] = layers as [Content]
    disk.failing.set(operation, code)
    const pulled = await Promise.all([1, 2, 3].map(() => pullSame(url(layer), layer)))
    t.ok(pulled.every(({ same }) => same))
    await settled(mirror)
    t.ok((await pullSame(url(layer), layer)).same)
    // Manifests are written down behind their answers.
    await eventually('nothing is left', async () => (await storedFiles(mirror, 'ingest')).length === 0)
    t.same(await storedFiles(mirror, 'blobs'), [])
    t.same(said(mirror, 'warn'), [REFUSES])
    t.ok((await bypasses(mirror)) > 0)
    disk.heal()
    clock.now += QUIET
    t.equal((await pullSame(url(layer), layer)).cache, 'miss')
    await settled(mirror)
    t.equal((await pullSame(url(layer), layer)).cache, 'hit')
    t.same(said(mirror, 'error'), [])
  })
}

for (const code of ['ENOSPC', 'EIO']) {
  test(`followers early, late and slow get the rest when the disk gives up half-way (${code})`, async (t) => {
    const { upstream, mirror, disk, layers, url } = await setUp(t, [24 * MiB], {
      upstream: { bytesPerSecond: 24 * MiB },
    })
    const [layer] = layers as [Content]
    const early = [pullSame(url(layer), layer), pullSame(url(layer), layer)]
    const slow = await request(url(layer))
    await upstream.log.until((log) => log.bytesSent('blob') > 6 * MiB)
    const late = pullSame(url(layer), layer)
    const part = pull(url(layer), { range: `bytes=${10 * MiB}-${20 * MiB - 1}` })
    const tail = pull(url(layer), { range: `bytes=${4 * MiB}-` })
    await upstream.log.until((log) => log.bytesSent('blob') > 9 * MiB)
    disk.fullWith = code
    disk.room = 1 * MiB
    await eventually('it is refused', async () => (await bypasses(mirror)) > 0)
    upstream.set({ bytesPerSecond: undefined })

    for (const pulled of await Promise.all([...early, late])) {
      t.ok(pulled.status === 200 && pulled.same)
    }
    t.ok((await part).body.equals(layer.bytes.subarray(10 * MiB, 20 * MiB)))
    t.ok((await tail).body.equals(layer.bytes.subarray(4 * MiB)))
    t.ok(Buffer.from(await slow.body.arrayBuffer()).equals(layer.bytes), 'who had not read a byte, too')
    const ranges = upstream.log.of('blob').map(({ headers }) => headers.range ?? 'all')
    // The fill, and who had not read a byte; a busy machine may have kept one of the early ones from it as well.
    t.ok(ranges.filter((it) => it === 'all').length <= 3, `nobody starts again: ${ranges.join(' ')}`)
    await settled(mirror)
    t.same(await storedFiles(mirror, 'ingest'), [])
    t.same(said(mirror, 'warn'), [REFUSES])
    t.same(said(mirror, 'error'), [])
    await eventually('every file is closed', () => disk.opened === 0)
  })
}

test('a disk that was full a moment ago is used as soon as room can be made', async (t) => {
  const room = {
    can: false,
    reserve: () => Promise.resolve({ as: 'keep' as const, [Symbol.dispose]: () => undefined }),
    reclaim: () => {
      if (room.can) disk.heal()
      return Promise.resolve(room.can)
    },
    changed: () => undefined,
  }
  const { mirror, disk, layers, url } = await setUp(t, [2 * MiB], { mirror: { diskSpace: room } })
  const [layer] = layers as [Content]
  disk.failing.set('create', 'ENOSPC')
  t.equal((await pullSame(url(layer), layer)).cache, 'bypass')
  room.can = true
  t.equal((await pullSame(url(layer), layer)).cache, 'miss', 'without a moment of rest')
  await settled(mirror)
  t.equal((await pullSame(url(layer), layer)).cache, 'hit')
})

test('the space of a given-up fill is free although a slow client still reads', async (t) => {
  const { upstream, mirror, disk, layers, url } = await setUp(t, [24 * MiB], {
    upstream: { bytesPerSecond: 24 * MiB },
  })
  const [layer] = layers as [Content]
  const slow = await request(url(layer), { highWaterMark: 1 })
  await upstream.log.until((log) => log.bytesSent('blob') > 9 * MiB)
  disk.room = 0
  await eventually('it is refused', async () => (await bypasses(mirror)) > 0)
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of slow.body as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    bytes += chunk.length
    // Well into what never was in the file.
    if (bytes > 16 * MiB && bytes - chunk.length <= 16 * MiB) {
      await eventually('the file is closed', () => disk.opened === 0)
    }
  }
  t.ok(Buffer.concat(chunks).equals(layer.bytes))
})

test('what a read-only disk kept from being removed is removed when it can be', async (t) => {
  const { mirror, disk, clock, layers, url } = await setUp(t, [8 * MiB, 3 * MiB])
  const [layer, other] = layers as [Content, Content]
  disk.room = 4 * MiB
  disk.fullWith = 'EROFS'
  disk.failing.set('remove', 'EROFS')
  t.ok((await pullSame(url(layer), layer)).same)
  await settled(mirror)
  t.not((await storedFiles(mirror, 'ingest')).length, 0)
  disk.heal()
  clock.now += QUIET
  t.equal((await pullSame(url(other), other)).cache, 'miss')
  await settled(mirror)
  t.same(await storedFiles(mirror, 'ingest'), [])
  t.same(said(mirror, 'warn'), [REFUSES])
})

test('a wrong first try and a disk that gives up on the second give nobody a wrong file', async (t) => {
  const { upstream, disk, layers, url, mirror } = await setUp(t, [8 * MiB])
  const [layer] = layers as [Content]
  upstream.fault({ kind: 'blob', nth: 1 }, { corrupt: 'tail' })
  disk.room = 12 * MiB
  const pulled = await Promise.all([pullSame(url(layer), layer), pullSame(url(layer), layer)])
  t.ok(
    pulled.every(({ same }) => same),
    'what was given out of the first try was right',
  )
  t.same(said(mirror, 'error'), [])
})

test('a client that comes just when a fill is given up gets a fill of its own', async (t) => {
  const { upstream, layers, url } = await setUp(t, [8 * MiB], {
    upstream: { bytesPerSecond: 40 * MiB },
    mirror: { cache: { prefetch: 'off', finishAbandoned: 'never' } },
  })
  const [layer] = layers as [Content]
  for (let round = 0; round < 20; round += 1) {
    await pullSome(url(layer), 100_000)
    const pulled = await pull(url(layer), { range: 'bytes=0-99' })
    t.equal(pulled.status, 206)
  }
  t.ok((await pullSame(url(layer), layer)).same)
  t.ok(upstream.log.bytesSent('blob') < 100 * MiB)
})

test('a cached blob that cannot be opened is had from upstream', async (t) => {
  const { mirror, disk, layers, url, tag, big } = await setUp(t, [2 * MiB])
  const [layer] = layers as [Content]
  await pull(tag)
  await pull(url(layer))
  await settled(mirror)
  disk.failing.set('open', 'EMFILE')
  const pulled = await pullSame(url(layer), layer)
  t.ok(pulled.same)
  t.equal((await pull(tag)).status, 200)
  t.ok((await pull(tag)).body.equals(big.manifest.bytes))
  t.equal((await pull(url(layer), {}, 'HEAD')).status, 200)
  t.ok((await bypasses(mirror)) > 0)
  t.equal(said(mirror, 'warn').length, 1)
  disk.heal()
  await settled(mirror)
  t.equal((await pullSame(url(layer), layer)).cache, 'hit')
  t.same(said(mirror, 'error'), [])
})
