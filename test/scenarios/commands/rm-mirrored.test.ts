/** `entrepot rm` of what is mirrored: what goes, what stays, and that the next pull fetches it anew. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { rm } from '../../../src/admin/cli/rm.ts'
import { eventually, isWhole, pull, settled, simulate, stall, startMirror } from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import { blobFile } from '../../support/folder.ts'
import { image, index, type Content, type Image } from '../../support/images.ts'
import { shortDir } from '../../support/programs.ts'
import { pushImage } from '../../support/push.ts'

const shared = { size: 3000, seed: 'shared' }
const one = image({ seed: 'one', layers: [shared, 1000] })
const two = image({ seed: 'two', layers: [shared, 2000] })

const sizeOf = (all: readonly Content[]): number => all.reduce((sum, { bytes }) => sum + bytes.length, 0)

/** `team/app`, mirrored, and its command. */
async function start(t: Test, tags: Record<string, Image>, cache: Record<string, unknown> = {}) {
  const upstream = await simulate(t)
  const mirror = await startMirror(t, upstream, { cache: { prefetch: 'off', ...cache } })
  const file = join(shortDir(t), 'config.yaml')
  writeFileSync(file, JSON.stringify({ storage: { root: mirror.root } }))
  const get = (what: string) => pull(`${mirror.url}/v2/team/app/${what}`)
  /** Every byte of it, and written down. */
  const pullAll = async (tag: string, { manifests, blobs }: Image): Promise<void> => {
    await get(`manifests/${tag}`)
    for (const { digest } of manifests) await get(`manifests/${digest}`)
    for (const { digest } of blobs) await get(`blobs/${digest}`)
    await settled(mirror)
    await eventually('it is here', async () => (await get(`manifests/${tag}`)).cache === 'hit')
  }
  for (const [tag, it] of Object.entries(tags)) {
    upstream.addImage('team/app', tag, it)
    await pullAll(tag, it)
  }
  const run = async (ref: string, options: { all?: boolean } = {}) => {
    const edge = recordedEdge()
    const code = await rm([ref], { config: file, ...options }, edge)
    return { code, said: [...edge.printed, ...edge.complaints].join('\n') }
  }
  const here = ({ digest }: Content): boolean => existsSync(blobFile(mirror.root, digest))
  return { upstream, mirror, run, get, here, pullAll }
}

test('a tag goes with its image, and with what nothing else needs; the next pull fetches it', async (t) => {
  const { run, get, here, upstream } = await start(t, { 1: one, 2: two })
  const { code, said } = await run('team/app:1')
  const bytes = (sizeOf([one.manifest, one.config]) + 1000) / 1024
  t.same({ code, said }, { code: 0, said: `removed docker.io/team/app:1; freed ${bytes.toFixed(2)} KiB` })
  t.same([one.manifest, one.config, ...one.layers].map(here), [false, false, true, false])
  t.ok([two.manifest, ...two.blobs].every(here))
  const asked = upstream.log.count({ kind: 'manifest', method: 'GET' })
  t.equal((await get('manifests/1')).cache, 'miss')
  t.equal(upstream.log.count({ kind: 'manifest', method: 'GET' }), asked + 1)
  t.match(await run('team/app:3'), { code: 1, said: /there is no 3 in docker\.io\/team\/app/ })
})

test('the image of a tag stays while another tag names it; by digest it goes with both', async (t) => {
  const { run, get, here } = await start(t, { 1: one, same: one })
  t.match(await run('docker.io/team/app:1'), {
    code: 0,
    said: 'removed docker.io/team/app:1; its image stays: docker.io/team/app:same names it as well',
  })
  t.equal((await get('manifests/same')).cache, 'hit')
  t.match(await run(`team/app@${one.manifest.digest}`), { code: 0, said: /and its tags; freed 4\.\d+ KiB$/ })
  t.notOk([one.manifest, ...one.blobs].some(here))
  t.equal((await get('manifests/same')).cache, 'miss')
})

test('with an index go its platforms, except one that has a tag of its own', async (t) => {
  const both = index({ images: { amd64: one, arm64: two } })
  const { run, here, get } = await start(t, { both, arm: two })
  t.match(await run('team/app:both'), { code: 0 })
  t.notOk(here(both.manifest) || here(one.manifest))
  t.ok([two.manifest, ...two.blobs].every(here))
  t.equal((await get('manifests/arm')).cache, 'hit')
})

test('a pin does not keep it from who removes it by hand, and is told', async (t) => {
  const { run, here } = await start(t, { 1: one }, { pin: ['docker.io/team/**:1'] })
  t.match(await run('team/app:1'), { code: 0, said: /freed .*; it was pinned by docker\.io\/team\/\*\*:1$/ })
  t.notOk(here(one.manifest))
})

test('who is pulling it gets all of it', async (t) => {
  const big = image({ seed: 'big', layers: [6_000_000] })
  const { run, mirror, here } = await start(t, { 1: big })
  const [layer] = big.layers as [Content]
  const url = `${mirror.url}/v2/team/app/blobs/${layer.digest}`
  const leave = await stall(url)
  const whole = pull(url)
  t.match(await run('team/app:1'), { code: 0, said: /its bytes stay for now: somebody is pulling it$/ })
  t.ok(isWhole(await whole, layer))
  t.ok(here(layer))
  leave()
  t.match(await run('team/app:1'), { code: 1, said: /there is no 1/ })
})

test('what was pushed as well keeps its bytes', async (t) => {
  const { run, mirror, here } = await start(t, { 1: one })
  await pushImage(`${mirror.url}/v2/mine`, one, '1')
  t.match(await run('team/app:1'), { code: 0, said: /its bytes stay for now: mine has it as well$/ })
  t.ok([one.manifest, ...one.blobs].every(here))
  t.equal((await pull(`${mirror.url}/v2/mine/manifests/1`)).status, 200)
})

test('all of a name, and nothing of another', async (t) => {
  const { run, get, here, mirror, upstream } = await start(t, { 1: one, 2: two })
  upstream.addImage('team/other', '1', two)
  await pull(`${mirror.url}/v2/team/other/manifests/1`)
  const { code, said } = await run('team/app', { all: true })
  t.equal(code, 0)
  t.match(said, /^removed all of docker\.io\/team\/app; freed [\d.]+ KiB$/)
  t.notOk([one.manifest, ...one.blobs.slice(-1)].some(here))
  t.equal((await pull(`${mirror.url}/v2/team/other/manifests/1`)).status, 200)
  t.equal((await get('manifests/1')).cache, 'miss')
  t.match(await run('team/none', { all: true }), {
    code: 1,
    said: /nothing of docker\.io\/team\/none is here/,
  })
})

test('what upstream said of a tag is forgotten with it', async (t) => {
  const { run, get, upstream } = await start(t, { 1: one }, { tagTtl: '0s', negativeTtl: '1h' })
  upstream.deleteTag('team/app', '1')
  await eventually('the tag is gone', async () => (await get('manifests/1')).status === 404)
  upstream.moveTag('team/app', '1', two)
  t.equal((await get('manifests/1')).status, 404, 'believed for an hour')
  t.match(await run('team/app:1'), { code: 0 })
  t.equal((await get('manifests/1')).status, 200)
})
