/** What is answered from memory, a thousand times a second, is never what was true before a write. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { evict } from '../../../src/admin/cli/evict.ts'
import { rm } from '../../../src/admin/cli/rm.ts'
import { eventually, pull, simulate, startMirror } from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import { image } from '../../support/images.ts'
import { shortDir } from '../../support/programs.ts'
import { pushBlob, pushImage, pushManifest, send } from '../../support/push.ts'

const one = image({ seed: 'one' })
const two = image({ seed: 'two' })

/** A mirror on loopback, with its configuration for commands, and readers that keep what they ask for hot. */
async function start(t: Test, cache: Record<string, unknown> = {}) {
  const upstream = await simulate(t)
  const mirror = await startMirror(t, upstream, { cache })
  const file = join(shortDir(t), 'config.yaml')
  writeFileSync(file, JSON.stringify({ storage: { root: mirror.root } }))
  let reading = true
  const readers: Promise<void>[] = []
  t.teardown(async () => {
    reading = false
    await Promise.all(readers)
  })
  const read = async (url: string): Promise<void> => {
    while (reading) await pull(url)
  }
  const keepHot = (urls: readonly string[]): void => {
    for (const url of urls) readers.push(read(url), read(url))
  }
  return { upstream, mirror, file, keepHot }
}

test('a tag that is pushed again names the new image from the answer on, for every reader', async (t) => {
  const { mirror, keepHot } = await start(t)
  const repository = `${mirror.url}/v2/team/app`
  for (const { blobs } of [one, two]) {
    for (const blob of blobs) await pushBlob(repository, blob)
  }
  await pushImage(repository, one, 'latest')
  keepHot([`${repository}/manifests/latest`])
  for (let round = 0; round < 10; round++) {
    const it = round % 2 === 0 ? two : one
    await pushManifest(repository, it.manifest, 'latest')
    const got = await Promise.all([
      pull(`${repository}/manifests/latest`),
      pull(`${repository}/manifests/latest`, {}, 'HEAD'),
      pull(`${repository}/manifests/${it.manifest.digest}`),
    ])
    t.same(
      got.map(({ headers }) => headers['docker-content-digest']),
      Array(3).fill(it.manifest.digest),
    )
  }
})

test('what was absent is there once it is pushed, and what is deleted is gone', async (t) => {
  const { mirror, keepHot, file } = await start(t)
  const repository = `${mirror.url}/v2/team/app`
  const targets = ['latest', one.manifest.digest].map((it) => `${repository}/manifests/${it}`)
  const blob = `${repository}/blobs/${one.layers[0]!.digest}`
  const statuses = async (): Promise<number[]> =>
    (await Promise.all([...targets, blob].map((url) => pull(url)))).map(({ status }) => status)
  await pushImage(repository, two, 'other')
  keepHot([...targets, blob])
  t.same(await statuses(), [404, 404, 404])
  await pushImage(repository, one, 'latest')
  t.same(await statuses(), [200, 200, 200])
  t.equal((await send(targets[0]!, 'DELETE')).status, 202)
  t.same(await statuses(), [404, 200, 200])
  t.equal((await send(targets[1]!, 'DELETE')).status, 202)
  t.same(await statuses(), [404, 404, 200])
  t.equal((await send(blob, 'DELETE')).status, 202)
  t.same(await statuses(), [404, 404, 404])
  await pushImage(repository, one, 'latest')
  t.same(await statuses(), [200, 200, 200])
  t.equal(await rm(['team/app'], { config: file, all: true }, recordedEdge()), 0)
  t.same(await statuses(), [404, 404, 404])
})

test('what a command evicts while it is hot is fetched anew', async (t) => {
  const { mirror, upstream, keepHot, file } = await start(t, { tagTtl: '1h', prefetch: 'off' })
  upstream.addImage('library/app', '1', one)
  const url = `${mirror.url}/v2/library/app/manifests/1`
  t.equal((await pull(url)).cache, 'miss')
  await eventually('it is here', async () => (await pull(url)).cache === 'hit')
  const asked = upstream.log.count({ kind: 'manifest' })
  keepHot([`${mirror.url}/v2/library/app/manifests/2`, `${mirror.url}/v2/`])
  t.equal(await evict({ config: file, to: '0' }, recordedEdge()), 0)
  const again = await pull(url)
  t.same([again.status, again.cache, again.body], [200, 'miss', one.manifest.bytes])
  t.ok(upstream.log.count({ kind: 'manifest' }) > asked)
})
