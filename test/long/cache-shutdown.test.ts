/** Closing: whatever runs ends in time, leaves nothing open behind, and the next start goes on from there. */
import { readdirSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import { request } from 'undici'
import { image } from '../support/images.ts'
import { pull, pullSame, simulate, startMirror, type Mirror } from '../support/app.ts'
import { FaultyFiles } from '../support/faulty-files.ts'
import { closeClients, holdsNoMore, resources, warmUp } from '../support/resources.ts'
import { said } from '../support/trouble.ts'

const MiB = 1024 * 1024
/** For what has been cut off to let go of what it holds, on a machine that is busy. */
const A_LITTLE = 3_000
/** After that nobody waits for the thread that writes any more. Until then SQLite may: it counts what it meant to sleep. */
const GIVEN_UP_MS = 10_000

const surprises: unknown[] = []
process.on('unhandledRejection', (reason) => surprises.push(reason))

async function setUp(t: Test, options: { files?: FaultyFiles; bytesPerSecond?: number } = {}) {
  await warmUp(t)
  const before = resources()
  const upstream = await simulate(t, { bytesPerSecond: options.bytesPerSecond ?? 4 * MiB })
  const it = image({ layers: [24 * MiB, 16 * MiB, 20_000] })
  upstream.addImage('library/big', '1', it)
  const mirror = await startMirror(
    t,
    upstream,
    options.files === undefined ? {} : { files: options.files.files },
  )
  const v2 = `${mirror.url}/v2/library/big`
  const url = (index: number): string => `${v2}/blobs/${it.layers[index]!.digest}`
  /** Closes the mirror, then everything else, and looks at what is left. */
  const end = async (graceMs: number): Promise<void> => {
    const startedAt = performance.now()
    await mirror.app.close(graceMs)
    const took = performance.now() - startedAt
    t.ok(took < graceMs + A_LITTLE, `closed within ${Math.round(took)} ms`)
    await t.rejects(reach(mirror), 'nobody listens any more')
    await upstream.close()
    await closeClients()
    await holdsNoMore(t, before)
    t.same(surprises, [])
    t.same(said(mirror, 'error'), [])
  }
  return { upstream, mirror, image: it, v2, url, end }
}

async function reach(mirror: Mirror): Promise<void> {
  const { hostname, port } = new URL(mirror.url)
  await new Promise<void>((resolve, reject) => {
    const socket = connect(Number(port), hostname)
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.destroy()
      resolve()
    })
  })
}

function partials(mirror: Mirror): string[] {
  return readdirSync(path.join(mirror.root, 'ingest')).filter((name) => name.endsWith('.part'))
}

test('closing amidst fills with waiting clients keeps the partials, and the next start uses them', async (t) => {
  const { upstream, mirror, image: it, url, end } = await setUp(t)
  const cut = [0, 0, 1, 0].map((index) => pullSame(url(index), it.layers[index]!))
  await upstream.log.until((log) => log.bytesSent({ kind: 'blob', ref: it.layers[0]!.digest }) > 3 * MiB)
  await upstream.log.until((log) => log.bytesSent({ kind: 'blob', ref: it.layers[1]!.digest }) > 3 * MiB)
  const ended = end(100)
  const pulled = await Promise.all(cut)
  t.ok(
    pulled.every(({ broken, same }) => broken && !same),
    'cut off, not ended',
  )
  await ended
  t.equal(partials(mirror).length, 2)

  await upstream.start()
  upstream.set({ bytesPerSecond: undefined })
  upstream.log.clear()
  const next = await startMirror(t, upstream, { root: mirror.root })
  for (const index of [0, 1]) {
    const layer = it.layers[index]!
    t.ok((await pullSame(`${next.url}/v2/library/big/blobs/${layer.digest}`, layer)).same)
  }
  t.ok(
    upstream.log
      .of({ kind: 'blob', method: 'GET' })
      .every(({ headers }) => /^bytes=[1-9]/.test(headers.range ?? '')),
  )
  await next.close()
})

test('a running response may end within the grace', async (t) => {
  const { upstream, image: it, url, end } = await setUp(t, { bytesPerSecond: 16 * MiB })
  const pulled = pullSame(url(1), it.layers[1]!)
  await upstream.log.until((log) => log.bytesSent('blob') > 3 * MiB)
  const ended = end(8_000)
  t.ok((await pulled).same)
  await ended
})

test('closing amidst bypasses', async (t) => {
  const files = new FaultyFiles()
  const { upstream, image: it, url, end } = await setUp(t, { files })
  files.failing.set('create', 'EROFS')
  const cut = [0, 1, 0].map((index) => pullSame(url(index), it.layers[index]!))
  await upstream.log.until((log) => log.bytesSent('blob') > 3 * MiB)
  const ended = end(100)
  t.ok((await Promise.all(cut)).every(({ broken }) => broken))
  await ended
})

for (const hang of ['headers', 'midBody'] as const) {
  test(`closing while upstream hangs (${hang})`, async (t) => {
    const { upstream, url, v2, end } = await setUp(t)
    upstream.fault({ kind: ['blob', 'manifest'] }, { hang, hangAfterBytes: 100 })
    const waiting = [url(0), url(2), `${v2}/manifests/1`, `${v2}/tags/list`].map((it) =>
      pull(it).catch((error: unknown) => error),
    )
    await upstream.log.until(
      (log) => log.count({ kind: 'blob', method: 'GET' }) === 2 && log.count('manifest') > 0,
    )
    const ended = end(100)
    await Promise.all(waiting)
    await ended
  })
}

test('closing with clients that take nothing, and connections on which nothing was asked', async (t) => {
  const { upstream, mirror, url, end } = await setUp(t, { bytesPerSecond: 100 * MiB })
  const stalled = await request(url(0))
  stalled.body.on('error', () => undefined)
  const { hostname, port } = new URL(mirror.url)
  const idle = connect(Number(port), hostname)
  const half = connect(Number(port), hostname)
  for (const socket of [idle, half]) socket.on('error', () => undefined)
  half.write('GET /v2/ HTTP/1.1\r\nHost: a')
  await upstream.log.until((log) => log.bytesSent('blob') > 20 * MiB)
  await end(100)
})

test('closing while the database takes no writes', async (t) => {
  const { mirror, v2, end, image: it, url } = await setUp(t)
  const other = new DatabaseSync(path.join(mirror.root, 'metadata.sqlite'))
  other.exec('begin immediate')
  await pull(`${v2}/manifests/1`)
  await pullSame(url(2), it.layers[2]!)
  // As long as the writer waits for a lock, and no longer: for what is under way, for what is written at the end, and
  // for the thread itself.
  const startedAt = performance.now()
  const closing = mirror.app.close(100)
  await closing
  t.ok(performance.now() - startedAt < 3 * GIVEN_UP_MS + A_LITTLE)
  other.close()
  await end(0)
})

test('a second close is harmless', async (t) => {
  const { mirror, end } = await setUp(t)
  await Promise.all([mirror.app.close(100), mirror.app.close(100)])
  await end(0)
})

test('twenty lives in a row leak nothing', async (t) => {
  await warmUp(t)
  const before = resources()
  const upstream = await simulate(t, { bytesPerSecond: 20 * MiB })
  const it = image({ layers: [3 * MiB, 8 * MiB] })
  upstream.addImage('library/big', '1', it)
  const root = t.testdir()
  for (let life = 0; life < 20; life += 1) {
    const mirror = await startMirror(t, upstream, { root })
    const v2 = `${mirror.url}/v2/library/big`
    t.equal((await pull(`${v2}/manifests/1`)).status, 200)
    const cut = it.layers.map((layer) =>
      pullSame(`${v2}/blobs/${layer.digest}`, layer).catch(() => undefined),
    )
    if (life % 2 === 0) await Promise.all(cut)
    await mirror.app.close(0)
    await Promise.all(cut)
  }
  await upstream.close()
  await closeClients()
  await holdsNoMore(t, before)
  t.same(surprises, [])
})
