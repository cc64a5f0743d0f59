/** A real file system of 64 MiB that is full: pulls and pushes go on, at the cost of what was pulled longest ago. */
import { appendFileSync, rmSync, statfsSync, truncateSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { parseRepositoryName } from '../../src/oci/reference.ts'
import { metadataWithDiskFullRetry } from '../../src/storage/files/disk-full-retry.ts'
import type { MetadataStore } from '../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'
import { eventually, pull, pullSame, settled, simulate, startMirror, type Mirror } from '../support/app.ts'
import { image, layer, type Content, type Image } from '../support/images.ts'
import { pushBlob, pushManifest, send } from '../support/push.ts'
import { mountTmpfs, needsMount, type Volume } from '../support/tmpfs.ts'
import { bypasses, REFUSES, said, storedFiles } from '../support/trouble.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

const MiB = 1024 * 1024
const SIZE = 64 * MiB

/** As much as there is; what the budget would do is not the question here. */
const ALL_OF_IT = { maxSize: '100%', minFree: '0B', prefetch: 'off' }
const LOCAL = { local: ['team/**'], push: { anonymous: true } }

/** Images `library/some:0` … of one layer each, cached in this order. */
async function cache(mirror: Mirror, upstream: UpstreamSimulator, sizes: number[]): Promise<Image[]> {
  const images = sizes.map((size, seed) => image({ layers: [size], seed: `some ${seed}` }))
  for (const [tag, it] of images.entries()) {
    upstream.addImage('library/some', String(tag), it)
    await pull(`${mirror.url}/v2/library/some/manifests/${tag}`)
    await pullSame(blobUrl(mirror, 'library/some', it.layers[0]!), it.layers[0]!)
    await settled(mirror)
  }
  return images
}

function blobUrl(mirror: Mirror, repository: string, { digest }: Content): string {
  return `${mirror.url}/v2/${repository}/blobs/${digest}`
}

/** Whether those are here, without asking upstream for any that is not. */
async function kept(mirror: Mirror, images: readonly Image[]): Promise<boolean[]> {
  const names = new Set(await storedFiles(mirror, 'blobs'))
  return images.map(({ layers }) => names.has(layers[0]!.digest.slice('sha256:'.length)))
}

/** Takes all of the disk but so much, or a little less where somebody else takes of it at the same time. */
function ballast({ folder }: Volume): { leave(bytes: number): void; remove(): void } {
  const file = path.join(folder, 'ballast')
  return {
    leave(bytes) {
      // What a download takes meanwhile is taken as well.
      for (;;) {
        const { bsize, bavail } = statfsSync(folder)
        const rest = bsize * bavail - bytes
        if (rest <= 0) return
        try {
          appendFileSync(file, Buffer.alloc(Math.min(rest, MiB)))
        } catch (error) {
          // Somebody else was faster: there is even less.
          if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return
          throw error
        }
      }
    },
    remove: () => {
      truncateSync(file)
      rmSync(file)
    },
  }
}

async function metric(mirror: Mirror, name: string): Promise<number> {
  const { body } = await pull(`${mirror.url}/metrics`)
  let sum = 0
  for (const [, value] of body.toString().matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\d+)`, 'gm'))) {
    sum += Number(value)
  }
  return sum
}

async function start(t: Test, volume: Volume, cacheSettings: Record<string, unknown>, upstreamOptions = {}) {
  const upstream = await simulate(t, upstreamOptions)
  const mirror = await startMirror(t, upstream, {
    root: volume.folder,
    cache: cacheSettings,
    config: LOCAL,
  })
  return { upstream, mirror }
}

test('pulls of twice what the disk has are all right, and the oldest go', needsMount, async (t) => {
  using volume = mountTmpfs(SIZE)
  const world = await start(t, volume, { prefetch: 'off' })
  await using mirror = world.mirror
  const { upstream } = world
  const images = Array.from({ length: 14 }, (_, i) => image({ layers: [6 * MiB, 3 * MiB], seed: `big ${i}` }))
  for (const [tag, it] of images.entries()) upstream.addImage('library/big', String(tag), it)
  const pullAll = async (tag: number): Promise<void> => {
    const it = images[tag]!
    const manifest = await pull(`${mirror.url}/v2/library/big/manifests/${tag}`)
    t.ok(manifest.body.equals(it.manifest.bytes))
    const pulled = await Promise.all(
      [...it.blobs, ...it.layers].map((blob) => pullSame(blobUrl(mirror, 'library/big', blob), blob)),
    )
    t.ok(
      pulled.every(({ status, same }) => status === 200 && same),
      `image ${tag}`,
    )
  }
  for (let tag = 0; tag < images.length; tag += 2) await Promise.all([pullAll(tag), pullAll(tag + 1)])
  await settled(mirror)
  t.ok((await metric(mirror, 'entrepot_cache_evictions_total')) > 0, 'some were evicted')
  const before = upstream.log.count({ kind: 'blob', method: 'GET' })
  await pullAll(images.length - 1)
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), before, 'the last one is here')
  t.same(said(mirror, 'error'), [])
})

test(
  'a disk that fills up in the middle of a download costs the oldest image, not the download',
  needsMount,
  async (t) => {
    using volume = mountTmpfs(SIZE)
    const world = await start(t, volume, ALL_OF_IT)
    await using mirror = world.mirror
    const { upstream } = world
    const cached = await cache(mirror, upstream, [8 * MiB, 8 * MiB, 8 * MiB])
    const big = image({ layers: [16 * MiB], seed: 'new' })
    upstream.addImage('library/big', '1', big)
    const [blob] = big.layers as [Content]
    await pull(`${mirror.url}/v2/library/big/manifests/1`)

    upstream.set({ bytesPerSecond: 24 * MiB })
    const pulling = [1, 2, 3].map(() => pullSame(blobUrl(mirror, 'library/big', blob), blob))
    await upstream.log.until((log) => log.bytesSent('blob') > 24 * MiB + 4 * MiB)
    ballast(volume).leave(MiB)
    for (const { status, same, cache } of await Promise.all(pulling)) {
      t.ok(status === 200 && same)
      t.match(cache, /miss|join/)
    }
    await settled(mirror)
    t.equal(upstream.log.count({ kind: 'blob', method: 'GET', ref: blob.digest }), 1, 'it was sent once')
    t.equal((await pullSame(blobUrl(mirror, 'library/big', blob), blob)).cache, 'hit')
    t.same((await kept(mirror, cached))[0], false, 'the oldest has gone')
    t.same(said(mirror, 'warn'), [], 'nobody has to know')
    t.same(said(mirror, 'error'), [])
  },
)

test('a layer that is larger than the disk is streamed to everybody', needsMount, async (t) => {
  using volume = mountTmpfs(SIZE / 2)
  const world = await start(t, volume, { prefetch: 'off' })
  await using mirror = world.mirror
  const { upstream } = world
  const cached = await cache(mirror, upstream, [4 * MiB])
  const big = image({ layers: [36 * MiB], seed: 'huge' })
  upstream.addImage('library/big', '1', big)
  const [blob] = big.layers as [Content]
  t.ok((await pull(`${mirror.url}/v2/library/big/manifests/1`)).body.equals(big.manifest.bytes))
  const url = blobUrl(mirror, 'library/big', blob)
  const pulled = await Promise.all(Array.from({ length: 10 }, () => pullSame(url, blob)))
  t.ok(pulled.every(({ status, same }) => status === 200 && same))
  t.ok(pulled.every((it) => it.cache === 'bypass'))
  await settled(mirror)
  await eventually('nothing of it stays', async () => (await storedFiles(mirror, 'ingest')).length === 0)
  const [small] = cached[0]!.layers as [Content]
  t.ok((await pullSame(blobUrl(mirror, 'library/some', small), small)).same)
  t.same(said(mirror, 'error'), [])
})

test('a layer that is larger than the disk, and nobody says so, is right as well', needsMount, async (t) => {
  using volume = mountTmpfs(SIZE / 2)
  const world = await start(t, volume, ALL_OF_IT)
  await using mirror = world.mirror
  const { upstream } = world
  const blob = layer({ size: 36 * MiB, seed: 'untold' })
  upstream.addBlob('library/big', blob)
  upstream.fault({ kind: 'blob' }, { noContentLength: true })
  const url = blobUrl(mirror, 'library/big', blob)
  const pulled = await Promise.all([1, 2, 3].map(() => pullSame(url, blob)))
  t.ok(pulled.every(({ status, same, broken }) => status === 200 && same && !broken))
  await eventually('nothing of it stays', async () => (await storedFiles(mirror, 'ingest')).length === 0)
  t.same(said(mirror, 'error'), [])
})

test('what is pushed takes the place of what was mirrored, and nothing else does', needsMount, async (t) => {
  using volume = mountTmpfs(SIZE)
  const world = await start(t, volume, ALL_OF_IT)
  await using mirror = world.mirror
  const { upstream } = world
  const repository = `${mirror.url}/v2/team/app`
  const first = layer({ size: 16 * MiB, seed: 'first push' })
  t.equal((await pushBlob(repository, first)).status, 201)
  const cached = await cache(mirror, upstream, [12 * MiB, 12 * MiB, 12 * MiB])
  const app = image({ layers: [20 * MiB, 14 * MiB], seed: 'app' })
  for (const blob of app.blobs) t.equal((await pushBlob(repository, blob)).status, 201)
  t.equal((await pushManifest(repository, app.manifest, '1')).status, 201)
  for (const blob of [first, ...app.layers])
    t.ok((await pullSame(`${repository}/blobs/${blob.digest}`, blob)).same)
  t.ok((await kept(mirror, cached)).includes(false), 'mirrored layers have gone')
  for (const it of cached) {
    const [blob] = it.layers as [Content]
    t.ok((await pullSame(blobUrl(mirror, 'library/some', blob), blob)).same, 'and come again, or pass')
  }
  t.same(said(mirror, 'error'), [])
})

test(
  'a push that finds no room is told so, goes on when there is, and nothing acknowledged is lost',
  needsMount,
  async (t) => {
    using volume = mountTmpfs(SIZE)
    const world = await start(t, volume, ALL_OF_IT)
    let { mirror } = world
    try {
      const repository = (): string => `${mirror.url}/v2/team/app`
      const app = image({ layers: [10 * MiB], seed: 'before' })
      for (const blob of app.blobs) t.equal((await pushBlob(repository(), blob)).status, 201)
      t.equal((await pushManifest(repository(), app.manifest, '1')).status, 201)
      const blob = layer({ size: 12 * MiB, seed: 'too much' })
      const begun = await send(`${repository()}/blobs/uploads/`, 'POST')
      const location = (): string => new URL(String(begun.headers['location']), mirror.url).href
      const patch = (from: number, to: number) =>
        send(location(), 'PATCH', blob.bytes.subarray(from, to), { 'content-range': `${from}-${to - 1}` })
      const offset = async (): Promise<number> => {
        const { status, headers } = await send(location(), 'GET')
        t.equal(status, 204)
        return Number(/^0-(\d+)$/.exec(String(headers['range']))?.[1]) + 1
      }
      t.equal((await patch(0, 4 * MiB)).status, 202)
      const weight = ballast(volume)
      weight.leave(3 * MiB)

      const refused = await patch(4 * MiB, 12 * MiB)
      t.equal(refused.status, 507)
      t.match(JSON.parse(refused.body.toString()), { errors: [{ code: 'INSUFFICIENT_STORAGE' }] })
      const at = await offset()
      t.ok(at >= 4 * MiB && at < 12 * MiB, `${at} bytes have come`)
      weight.leave(0)
      const held = async (): Promise<void> => {
        t.ok((await pull(`${repository()}/manifests/1`)).body.equals(app.manifest.bytes))
        for (const it of app.blobs) t.ok((await pullSame(`${repository()}/blobs/${it.digest}`, it)).same)
      }
      await held()

      await mirror.close()
      mirror = await startMirror(t, world.upstream, { root: volume.folder, cache: ALL_OF_IT, config: LOCAL })
      await held()
      t.equal(await offset(), at, 'also after a restart, on the full disk')
      // What a start took of what is reserved for it.
      weight.leave(0)
      const other = image({ layers: [], seed: 'other' })
      t.equal((await send(`${repository()}/blobs/uploads/`, 'POST')).status, 507)
      t.equal((await pushManifest(repository(), other.manifest, '2')).status, 404, 'its config is not here')
      const copy = await pushManifest(
        repository(),
        { ...app.manifest, bytes: Buffer.concat([app.manifest.bytes, Buffer.from(' '.repeat(9000))]) },
        '2',
      )
      t.equal(copy.status, 507, 'nor does a manifest fit')
      weight.remove()
      t.equal((await patch(at, 12 * MiB)).status, 202)
      const put = new URL(location())
      put.searchParams.set('digest', blob.digest)
      t.equal((await send(put.href, 'PUT')).status, 201)
      t.ok((await pullSame(`${repository()}/blobs/${blob.digest}`, blob)).same)
      t.same(said(mirror, 'error'), [])
    } finally {
      await mirror.close()
    }
  },
)

test(
  'where more is to stay free than there is, everything passes and nothing stays',
  needsMount,
  async (t) => {
    using volume = mountTmpfs(SIZE)
    const world = await start(t, volume, { prefetch: 'off', minFree: '80MiB' })
    await using mirror = world.mirror
    const big = image({ layers: [8 * MiB, 30_000], seed: 'any' })
    world.upstream.addImage('library/big', '1', big)
    for (let round = 0; round < 2; round += 1) {
      t.ok((await pull(`${mirror.url}/v2/library/big/manifests/1`)).body.equals(big.manifest.bytes))
      for (const blob of big.blobs) {
        const pulled = await pullSame(blobUrl(mirror, 'library/big', blob), blob)
        t.ok(pulled.status === 200 && pulled.same)
        t.equal(pulled.cache, 'bypass')
      }
    }
    t.same(await storedFiles(mirror, 'ingest'), [])
    t.same(said(mirror, 'warn'), [REFUSES], 'which is said once')
    t.ok((await bypasses(mirror)) >= 4, 'and counted')
    t.same(said(mirror, 'error'), [])
  },
)

test(
  'an index that cannot grow takes a write when there is room, and what it took before stays',
  needsMount,
  async (t) => {
    using volume = mountTmpfs(4 * MiB)
    const database = path.join(volume.folder, 'metadata.sqlite')
    const weight = ballast(volume)
    const name = (i: number) => parseRepositoryName(`team/${'x'.repeat(180)}${i}`)
    const put = (metadata: MetadataStore, from: number): Promise<void> =>
      metadata.transaction((tx) => {
        for (let i = from; i < from + 500; i += 1) tx.putRepository({ registry: 'local', name: name(i) }, 1)
      })
    await using closing = new AsyncDisposableStack()
    const metadata = closing.adopt(await openMetadata(database), (it) => it.close())
    await put(metadata, 0)
    weight.leave(4096)
    await t.rejects(put(metadata, 1000), { code: 'FULL' })
    const roomy = metadataWithDiskFullRetry(metadata, () => {
      weight.remove()
      return Promise.resolve(true)
    })
    await put(roomy, 2000)
    for (const [number, there] of [
      [499, true],
      [1000, false],
      [2499, true],
    ] as const) {
      const found = await metadata.repositories.get({ registry: 'local', name: name(number) })
      t.equal(found !== undefined, there, `${number}`)
    }
  },
)
