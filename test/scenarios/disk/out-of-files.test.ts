/** A process that may open no more files: that is said of ourselves, never of an upstream, a disk or a blob. */
import { test, type Test } from 'tap'
import { pull, type Pulled } from '../../support/app.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import { image } from '../../support/images.ts'
import { pushBlob, pushImage } from '../../support/push.ts'
import { stage, type Scene } from '../../support/scene.ts'
import { codeOf, messageOf } from '../../support/two-upstreams.ts'

async function scene(t: Test): Promise<Scene & { disk: FaultyFiles; ready: () => Promise<unknown> }> {
  const disk = new FaultyFiles()
  const it = await stage(t, [200_000, 1000], { mirror: { files: disk.files } })
  const ready = async (): Promise<unknown> =>
    JSON.parse((await pull(`${it.mirror.url}/readyz`)).body.toString()) as unknown
  return { ...it, disk, ready }
}

function refusedOf(t: Test, answer: Pulled, what: string): void {
  t.equal(answer.status, 503, what)
  t.equal(codeOf(answer), 'UNAVAILABLE')
  t.match(messageOf(answer), /^this process may open no more files.*ulimit -n/)
  t.equal(answer.headers['retry-after'], '10')
}

const linesOf = (lines: Scene['mirror']['lines'], message: string): unknown[] =>
  lines.filter(({ msg }) => msg === message)

test('what is cached, and cannot be opened, is had from upstream, and not taken for damaged', async (t) => {
  for (const code of ['EMFILE', 'ENFILE']) {
    const { disk, upstream, layers, mirror, clock, get, pullAll, ready } = await scene(t)
    await pullAll()
    t.match(await ready(), { status: 'ok', openFiles: 'ok' })
    disk.failing.set('open', code)
    disk.failing.set('create', code)
    const pulled = await get(`blobs/${layers[0]!.digest}`)
    t.equal(pulled.cache, 'bypass')
    t.ok(pulled.body.equals(layers[0]!.bytes))
    t.equal((await get('manifests/1')).cache, 'hit', 'which is in memory')
    const outOfFiles = { status: 'degraded', openFiles: 'exhausted', storage: 'ok', quarantine: { count: 0 } }
    t.match(await ready(), outOfFiles)
    const line = /^the limit of open files is reached/
    t.equal(mirror.lines.filter(({ msg }) => line.test(String(msg))).length, 1)
    t.same(linesOf(mirror.lines, 'cached blobs cannot be read: upstream is asked instead'), [])

    disk.heal()
    const asked = upstream.log.count()
    t.equal((await get(`blobs/${layers[0]!.digest}`)).cache, 'hit')
    t.equal(upstream.log.count(), asked)
    clock.now += 60_000
    t.match(await ready(), { status: 'ok', openFiles: 'ok' })
  }
})

test('what cannot be kept is streamed through, and the disk is not blamed', async (t) => {
  const { disk, layers, mirror, get, ready } = await scene(t)
  await get('manifests/1')
  disk.failing.set('create', 'EMFILE')
  for (let time = 0; time < 2; time++) {
    const answer = await get(`blobs/${layers[0]!.digest}`)
    t.equal(answer.status, 200)
    t.equal(answer.cache, 'bypass')
    t.ok(answer.body.equals(layers[0]!.bytes))
  }
  t.match(await ready(), { status: 'degraded', openFiles: 'exhausted', storage: 'ok' })
  t.same(linesOf(mirror.lines, 'storage refuses writes: pulls are streamed through uncached'), [])
  disk.heal()
  t.equal((await get(`blobs/${layers[0]!.digest}`)).cache, 'miss', 'at once, without a rest')
})

test('what was pushed is not damaged, and a push is told to come back', async (t) => {
  const { disk, mirror, ready } = await scene(t)
  const pushed = image({ layers: [1000], seed: 'pushed' })
  const url = `${mirror.url}/v2/team/app`
  t.equal((await pushImage(url, pushed, '1')).status, 201)
  disk.failing.set('open', 'EMFILE')
  refusedOf(t, await pull(`${url}/blobs/${pushed.layers[0]!.digest}`), 'a blob')
  refusedOf(t, await pull(`${url}/manifests/1`), 'a manifest')
  disk.heal()
  disk.failing.set('create', 'EMFILE')
  const more = await pushBlob(url, image({ layers: [2000], seed: 'more' }).layers[0]!)
  t.match(more, { status: 503, headers: { 'retry-after': '10' } })
  t.match(more.body.toString(), 'this process may open no more files')
  disk.heal()
  t.match(await ready(), { openFiles: 'exhausted', quarantine: { count: 0 } })
  t.equal((await pull(`${url}/blobs/${pushed.layers[0]!.digest}`)).status, 200)
})
