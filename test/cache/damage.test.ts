/** What a failing disk made of the files. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { pull, simulate, startMirror } from '../support/app.ts'
import { image, type Content } from '../support/images.ts'

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
