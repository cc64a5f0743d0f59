/** What a failing disk made of the files. */
import { execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { ManifestStore } from '../../../src/cache/manifests/manifest-store.ts'
import type { Origin } from '../../../src/cache/origin.ts'
import { parseManifest } from '../../../src/oci/manifest.ts'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { BlobHolds } from '../../../src/storage/locks/blob-holds.ts'
import { InProcessKeyedLocks } from '../../../src/storage/locks/keyed-locks.ts'
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { openStore } from '../../support/stores.ts'
import { eventually, isWhole, pull, settled, simulate, startMirror } from '../../support/app.ts'
import { image, type Content } from '../../support/images.ts'
import { pushImage } from '../../support/push.ts'

function fileOf(root: string, { digest }: Content): string {
  const hex = digest.slice('sha256:'.length)
  return path.join(root, 'blobs', 'sha256', hex.slice(0, 2), hex)
}

test('a manifest that was damaged on the disk is fetched again, and whole from then on', async (t) => {
  const upstream = await simulate(t)
  const { manifest, blobs } = image({ layers: [1000] })
  upstream.addImage('library/busybox', 'latest', image({ layers: [1000] }))
  const root = t.testdir()
  const pullAll = async (offline: boolean) => {
    await using mirror = await startMirror(t, upstream, { root, cache: { offline } })
    const base = `${mirror.url}/v2/library/busybox`
    const answers = [
      await pull(`${base}/manifests/latest`),
      await pull(`${base}/manifests/${manifest.digest}`),
    ]
    for (const { digest } of blobs) await pull(`${base}/blobs/${digest}`)
    return answers
  }
  await pullAll(false)
  const damaged = readFileSync(fileOf(root, manifest))
  // Its last line feed; it still means the same.
  damaged[damaged.length - 1] = 0x20
  writeFileSync(fileOf(root, manifest), damaged)
  for (const { body } of await pullAll(true)) t.notOk(body.equals(damaged))
  for (const offline of [false, true]) {
    for (const { body } of await pullAll(offline)) t.ok(body.equals(manifest.bytes))
  }
})

test('a blob that lost its end is fetched again, and whole from then on', async (t) => {
  const upstream = await simulate(t)
  const { layers } = image({ layers: [200_000] })
  upstream.addImage('library/busybox', 'latest', image({ layers: [200_000] }))
  const root = t.testdir()
  const pullLayer = async (offline: boolean) => {
    await using mirror = await startMirror(t, upstream, { root, cache: { offline } })
    await pull(`${mirror.url}/v2/library/busybox/manifests/latest`)
    return await pull(`${mirror.url}/v2/library/busybox/blobs/${layers[0]!.digest}`)
  }
  await pullLayer(false)
  truncateSync(fileOf(root, layers[0]!), 150_000)
  t.not((await pullLayer(true)).status, 200)
  for (const offline of [false, true]) t.ok((await pullLayer(offline)).body.equals(layers[0]!.bytes))
})

const LOSSES: Record<string, (file: string) => void> = {
  'is gone': (file) => rmSync(file),
  'lost its end': (file) => truncateSync(file, 100),
  'is a folder': (file) => {
    rmSync(file)
    mkdirSync(file)
    writeFileSync(path.join(file, 'mine'), '')
  },
  'is a link': (file) => {
    rmSync(file)
    symlinkSync('/etc/hostname', file)
  },
  'is a pipe': (file) => {
    rmSync(file)
    execFileSync('mkfifo', [file])
  },
}

test('a cached blob that is not here as it was is fetched again, whole, in part, and by HEAD', async (t) => {
  const upstream = await simulate(t)
  const it = image({ layers: [30_000] })
  const [layer] = it.layers as [Content]
  upstream.addImage('library/busybox', 'latest', it)
  const mirror = await startMirror(t, upstream, { cache: { prefetch: 'off' } })
  const base = `${mirror.url}/v2/library/busybox`
  const blob = `${base}/blobs/${layer.digest}`
  await pull(`${base}/manifests/latest`)
  await pull(blob)
  await settled(mirror)
  for (const [what, lose] of Object.entries(LOSSES)) {
    lose(fileOf(mirror.root, layer))
    const before = upstream.log.count({ kind: 'blob' })
    const head = await pull(blob, {}, 'HEAD')
    t.match(head, { status: 200, headers: { 'content-length': '30000' } }, what)
    t.equal(upstream.log.count({ kind: 'blob', method: 'HEAD' }), 1, 'not promised, but asked')
    const part = await pull(blob, { range: 'bytes=29990-' })
    t.equal(part.status, 206)
    t.ok(part.body.equals(layer.bytes.subarray(29_990)))
    await settled(mirror)
    t.equal(upstream.log.count({ kind: 'blob' }), before + 2, 'one HEAD, and one download')
    const whole = await pull(blob)
    t.ok(isWhole(whole, layer))
    t.equal(whole.cache, 'hit', 'and whole from then on')
    upstream.log.clear()
  }
})

test('a cached blob that is gone is not promised while upstream cannot be asked', async (t) => {
  const upstream = await simulate(t)
  const it = image({ layers: [3000] })
  const [layer] = it.layers as [Content]
  upstream.addImage('library/busybox', 'latest', it)
  const mirror = await startMirror(t, upstream, { cache: { prefetch: 'off' } })
  const base = `${mirror.url}/v2/library/busybox`
  await pull(`${base}/manifests/latest`)
  await pull(`${base}/blobs/${layer.digest}`)
  await settled(mirror)
  await upstream.stop()
  t.equal((await pull(`${base}/blobs/${layer.digest}`, {}, 'HEAD')).status, 200)
  rmSync(fileOf(mirror.root, layer))
  t.equal((await pull(`${base}/blobs/${layer.digest}`, {}, 'HEAD')).status, 503)
  t.equal((await pull(`${base}/blobs/${layer.digest}`)).status, 503)
})

test('a cached manifest that is not here as it was is fetched again, by tag, by digest, and by HEAD', async (t) => {
  const upstream = await simulate(t)
  const root = t.testdir()
  const images = Object.keys(LOSSES).map((seed) => image({ seed, layers: [] }).manifest)
  for (const [at, seed] of Object.keys(LOSSES).entries()) {
    upstream.addImage('library/busybox', `${at}`, image({ seed, layers: [] }))
  }
  // What is in memory is gone with the process.
  const each = async (
    offline: boolean,
    look: (url: string, manifest: Content, what: string) => Promise<void>,
  ): Promise<void> => {
    await using mirror = await startMirror(t, upstream, { root, cache: { offline, tagTtl: '1h' } })
    for (const [at, manifest] of images.entries()) {
      for (const reference of [`${at}`, manifest.digest]) {
        const url = `${mirror.url}/v2/library/busybox/manifests/${reference}`
        await look(url, manifest, Object.keys(LOSSES)[at]!)
      }
    }
  }
  await each(false, async (url) => {
    await pull(url)
  })
  for (const [at, lose] of Object.values(LOSSES).entries()) lose(fileOf(root, images[at]!))
  await each(true, async (url, _, what) => {
    t.equal((await pull(url, {}, 'HEAD')).status, 503, `${what}: not promised`)
    t.equal((await pull(url)).status, 503, 'and not denied')
  })
  await each(false, async (url, manifest) => {
    t.equal((await pull(url, {}, 'HEAD')).headers['docker-content-digest'], manifest.digest)
    t.ok(isWhole(await pull(url), manifest))
  })
  await each(true, async (url, manifest) => {
    const answer = await pull(url)
    t.ok(isWhole(answer, manifest))
    t.equal(answer.cache, 'hit')
  })
})

test('a manifest that comes again is written over what has rotted there', async (t) => {
  const { blobs: store, ingests, root } = await openStore(t)
  const metadata = await openMetadata(path.join(root, 'metadata.sqlite'))
  t.teardown(() => metadata.close())
  const { manifest } = image()
  const origin = { upstream: { key: 'docker.io' } } as Origin
  const name = { origin, name: parseRepositoryName('library/busybox') }
  for (let times = 0; times < 2; times++) {
    const shelf = new ManifestStore({
      ...{
        store,
        ingests,
        metadata,
        locks: new InProcessKeyedLocks(),
        holds: new BlobHolds(),
        now: Date.now,
      },
      diskSpace: { changed: () => undefined },
      suspect: () => t.fail('nobody read it'),
    })
    const content = parseManifest(manifest.bytes, manifest.mediaType)
    await shelf.keep(name, { digest: manifest.digest, bytes: manifest.bytes, content }, undefined)
    t.ok(readFileSync(fileOf(root, manifest)).equals(manifest.bytes))
    const damaged = Buffer.from(manifest.bytes)
    damaged[0]! ^= 1
    writeFileSync(fileOf(root, manifest), damaged)
  }
})

test('what a pull finds damaged is put aside, not deleted, when it was also pushed', async (t) => {
  const upstream = await simulate(t)
  const it = image({ layers: [5000] })
  upstream.addImage('library/busybox', 'latest', it)
  const root = t.testdir()
  const parts = [it.manifest, it.layers[0]!]
  {
    await using mirror = await startMirror(t, upstream, { root, config: { local: ['team/**'] } })
    t.equal((await pushImage(`${mirror.url}/v2/team/app`, it, '1')).status, 201)
    await pull(`${mirror.url}/v2/library/busybox/manifests/latest`)
    for (const { digest } of it.blobs) await pull(`${mirror.url}/v2/library/busybox/blobs/${digest}`)
    await settled(mirror)
  }
  for (const part of parts) truncateSync(fileOf(root, part), 100)
  await using mirror = await startMirror(t, upstream, {
    root,
    config: { local: ['team/**'] },
    cache: { offline: true },
  })
  await pull(`${mirror.url}/v2/library/busybox/manifests/latest`)
  await pull(`${mirror.url}/v2/library/busybox/blobs/${it.layers[0]!.digest}`)
  const aside = ({ digest }: Content): string => path.join(root, 'quarantine', digest.replace(':', '-'))
  await eventually('it is put aside', () => parts.every((part) => existsSync(aside(part))))
  for (const part of parts) t.ok(readFileSync(aside(part)).equals(part.bytes.subarray(0, 100)))
  await eventually('it is told', async () =>
    (await pull(`${mirror.url}/readyz`)).body.includes('"quarantine":{"count":2'),
  )
})
