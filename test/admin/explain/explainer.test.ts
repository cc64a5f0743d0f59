/** What `explain` says of a name, and that a pull then does what was said. */
import { rmSync, truncateSync } from 'node:fs'
import { test, type Test } from 'tap'
import type { Explanation } from '../../../src/admin/explain/explanation.ts'
import { eventually, pull, settled, type MirrorOptions, type Pulled } from '../../support/app.ts'
import { blobFile } from '../../support/folder.ts'
import { image, index } from '../../support/images.ts'
import { pushImage } from '../../support/push.ts'
import { MINUTE, REPO, startTagged } from '../../support/tagged.ts'

/** A tagged image behind a mirror, and somebody who asks about it. */
async function start(t: Test, options: MirrorOptions = {}) {
  const scene = await startTagged(t, { cache: { prefetch: 'off', ...options.cache }, ...options })
  const { mirror, upstream } = scene
  const explain = async (ref = 'app:1', ns?: string): Promise<Explanation> => {
    const query = new URLSearchParams({ ref, ...(ns === undefined ? {} : { ns }) })
    const asked = upstream.log.count({ kind: 'manifest' })
    const { status, body } = await pull(`${mirror.url}/_entrepot/explain?${query.toString()}`)
    t.equal(status, 200)
    t.equal(upstream.log.count({ kind: 'manifest' }), asked, 'nobody is asked')
    return JSON.parse(body.toString()) as Explanation
  }
  /** What was forecast, and then happened. */
  const foretold = async (
    outcome: Explanation['pull']['outcome'],
    happens: Partial<Pick<Pulled, 'status' | 'cache'>>,
    reference = '1',
    repo = 'app',
  ): Promise<Explanation> => {
    const told = await explain(`${repo}${reference.includes(':') ? '@' : ':'}${reference}`)
    t.equal(told.pull.outcome, outcome, told.pull.sentences.join('; '))
    const { status, cache } = await pull(`${mirror.url}/v2/${repo}/manifests/${reference}`)
    t.match({ status, cache }, happens, outcome)
    return told
  }
  /** Everything of the image is here. */
  const fill = async (): Promise<void> => {
    await scene.warm()
    for (const { digest } of scene.first.blobs) await scene.blob(digest)
    await settled(mirror)
  }
  return { ...scene, explain, foretold, fill }
}

test('what was never heard of would be fetched', async (t) => {
  const { foretold } = await start(t)
  const told = await foretold('get', { status: 200, cache: 'miss' })
  t.match(told.route, {
    ...{ rule: 'default', number: 5, kind: 'mirror', registry: 'docker.io', repository: REPO },
    listedAs: `docker.io/${REPO}`,
    why: /default upstream, docker\.io; names of one component are under library\//,
  })
  t.same([told.tag, told.image, told.keeping], [undefined, undefined, undefined])
  t.match(told.upstream, { key: 'docker.io', sentences: [/nothing is wrong/] })
})

test('a fresh tag: how old, how much longer, what is here of it and when it was pulled', async (t) => {
  const { foretold, fill, first, clock } = await start(t)
  await fill()
  clock.now += 10_000
  const told = await foretold('hit', { status: 200, cache: 'hit' })
  t.match(told.tag, { digest: first.manifest.digest, checkedMsAgo: 10_000, freshForMs: MINUTE - 10_000 })
  t.match(told.image, {
    ...{ digest: first.manifest.digest, held: true, manifest: 'present', storedMsAgo: 10_000 },
    size: first.manifest.bytes.length,
    mediaType: first.manifest.mediaType,
    pulledMsAgo: Number,
    parts: [
      { role: 'config', digest: first.config.digest, state: 'present' },
      { role: 'layer', digest: first.layers[0]!.digest, size: 100, state: 'present' },
    ],
    totals: { missingBytes: 0, presentParts: 3, missingParts: 0 },
  })
  t.match(told.pull.sentences, ['would be answered from here, without asking docker.io', /are here/])
  t.match(told.keeping, { pushed: false, pinnedBy: [], sentence: /^may be evicted: last pulled / })
})

test('an old tag is asked about by HEAD', async (t) => {
  const { foretold, warm, age, asked } = await start(t)
  await warm()
  age()
  const gets = asked('GET')
  const told = await foretold('head', { status: 200, cache: 'hit' })
  t.match(told.tag, { oldForMs: 1 })
  t.match(told.pull.sentences, [
    /by HEAD, which costs no pull/,
    'would answer stale if docker.io cannot say',
    /./,
  ])
  t.equal(asked('GET'), gets)
})

test('an upstream that failed a moment ago: stale, or 503 when that is too old', async (t) => {
  const { foretold, warm, age, upstream, get, clock, explain } = await start(t, {
    cache: { staleIfError: '1h' },
  })
  await warm()
  age()
  await upstream.stop()
  await get()
  const told = await foretold('stale', { status: 200, cache: 'stale' })
  t.match(told.upstream, { failing: String })
  t.match(
    told.pull.sentences[0],
    /^would be answered from here, marked stale: docker\.io cannot be (asked|reached)/,
  )
  await foretold('unavailable', { status: 503 }, '2')
  clock.now += 60 * MINUTE
  t.match((await explain()).pull.sentences, [
    /by HEAD/,
    /^503 if docker\.io cannot say: it was confirmed .* ago, more than/,
    /./,
  ])
  await get()
  await foretold('unavailable', { status: 503 })
})

test('a tag that upstream has deleted: absent for a while, then asked about again', async (t) => {
  const { foretold, warm, age, upstream, get, clock, first } = await start(t, {
    cache: { negativeTtl: '30s' },
  })
  await warm()
  upstream.deleteTag(REPO, '1')
  age()
  t.equal((await get()).status, 404)
  await eventually(
    'it is buried',
    async () => (await foretold('absent', { status: 404 })).tag?.goneMsAgo === 0,
  )
  clock.now += 30_001
  const told = await foretold('get', { status: 404 })
  t.match(told.tag, { digest: first.manifest.digest, goneMsAgo: 30_001 })
  t.match(told.image, { held: true, manifest: 'present' })
  await foretold('hit', { status: 200, cache: 'hit' }, first.manifest.digest)
})

test('offline: what is here, and 503 for what is not', async (t) => {
  const before = await start(t)
  await before.fill()
  await before.mirror.close()
  const { foretold, age, explain } = await start(t, {
    ...{ root: before.mirror.root, cache: { offline: true } },
    now: () => before.clock.now,
  })
  await foretold('hit', { status: 200, cache: 'hit' })
  age()
  before.clock.now += MINUTE + 1
  const told = await foretold('stale', { status: 200, cache: 'stale' })
  t.match(told.upstream, { status: { offline: true }, sentences: [/says that docker\.io is offline/] })
  before.clock.now += 365 * 24 * 60 * MINUTE
  await foretold('stale', { status: 200, cache: 'stale' })
  await foretold('unavailable', { status: 503 }, '2')
  const { sentences } = (await explain('app:2')).pull
  t.match(sentences, ['503: docker.io is offline by the configuration, and this is not cached'])
})

test('names that nothing takes, or that a list refuses: why, and nothing more', async (t) => {
  const { explain, foretold, warm } = await start(t, {
    upstream: { deny: ['secret/**'], aliases: ['hub.test'] },
  })
  await warm()
  const denied = await foretold('refused', { status: 403 }, '1', 'secret/app')
  t.match(denied.route, {
    kind: 'refused',
    rule: 'default',
    why: '`upstreams.docker.io.deny` lists secret/app',
  })
  t.same(Object.keys(denied).sort(), ['pull', 'ref', 'route'])
  const unknown = await explain('app:1', 'nobody.test')
  t.match(unknown, {
    route: { kind: 'refused' },
    pull: { outcome: 'refused', sentences: [/^404: no upstream/] },
  })
  t.match((await explain('app:1', 'hub.test')).route, {
    ...{ rule: 'ns', number: 1, repository: REPO },
    why: /^\?ns= names the upstream hub\.test, another name of docker\.io/,
  })
  t.match((await explain('docker.io/library/app:1')).route, {
    ...{ rule: 'prefix', number: 3, why: 'its first component names the upstream docker.io' },
  })
})

test('names of our own', async (t) => {
  const { explain, foretold, mirror, first } = await start(t, { config: { local: ['team/**'] } })
  const none = await foretold('absent', { status: 404 }, '1', 'team/app')
  t.match(none.route, {
    rule: 'local',
    number: 2,
    kind: 'local',
    why: /^the glob team\/\*\* of `local` takes it/,
  })
  const own = image({ seed: 'own', layers: [50] })
  await pushImage(`${mirror.url}/v2/team/app`, own, '1')
  const pushed = await foretold('local', { status: 200, cache: 'local' }, '1', 'team/app')
  t.match(pushed.keeping, { pushed: true, sentence: 'it was pushed: never evicted' })
  t.match(pushed.image, { held: true, totals: { missingParts: 0 } })
  t.equal(pushed.upstream, undefined)

  await pushImage(`${mirror.url}/v2/mine`, first, 'x')
  const shadowing = await foretold('local', { status: 200 }, 'x', 'mine')
  t.match(shadowing.route, { rule: 'existing', number: 4, why: /hides what the default upstream has/ })

  const { digest } = own.layers[0]!
  truncateSync(blobFile(mirror.root, digest), 10)
  t.match((await explain('team/app:1')).pull.sentences, [
    /it was pushed$/,
    /^500 for 1 of what it names, whose bytes/,
  ])
  t.match((await explain('team/app:1')).image!.parts, [{}, { state: 'wrong size', found: 10 }])
  t.equal((await pull(`${mirror.url}/v2/team/app/blobs/${digest}`)).status, 500)
  await eventually('it is put aside', async () => {
    return (await explain('team/app:1')).image!.parts[1]?.state === 'quarantined'
  })
  const lost = image({ seed: 'lost' })
  await pushImage(`${mirror.url}/v2/team/app`, lost, '2')
  rmSync(blobFile(mirror.root, lost.manifest.digest))
  await foretold('damaged', { status: 500 }, '2', 'team/app')
})

test('a digest alone opens nothing: of what another name holds nothing is told', async (t) => {
  const pin = ['docker.io/library/app:1']
  const { explain, fill, first, mirror } = await start(t, {
    ...{ config: { local: ['team/**'] }, cache: { pin, prefetch: 'off' } },
  })
  await fill()
  const secret = image({ seed: 'secret', layers: [50] })
  await pushImage(`${mirror.url}/v2/team/secret`, secret, '1')
  for (const { digest } of [secret.manifest, first.manifest]) {
    const told = await explain(`other@${digest}`)
    t.equal(told.pull.outcome, 'head')
    t.match(told.image, { digest, held: false, manifest: 'present', parts: [], platforms: [] })
    t.match(told.image!.totals, { presentBytes: 0, missingBytes: 0, presentParts: 0, missingParts: 0 })
    t.same(
      [told.image!.size, told.image!.mediaType, told.image!.storedMsAgo, told.keeping],
      [undefined, undefined, undefined, undefined],
    )
    const ours = await explain(`team/other@${digest}`)
    t.same([ours.pull.outcome, ours.image, ours.keeping], ['absent', undefined, undefined])
  }
  t.match(await explain(`team/secret@${secret.manifest.digest}`), {
    image: { held: true, totals: { presentParts: 3 } },
    keeping: { pushed: true },
  })
})

test('layers: missing, of the wrong size, on their way, and wrong every time', async (t) => {
  const timeouts = { connect: '1s', headers: '2s', idle: '300ms' }
  const { explain, fill, upstream, mirror } = await start(t, { upstream: { timeouts } })
  const big = image({ seed: 'big', layers: [300_000, 200, 400] })
  upstream.addImage(REPO, '2', big)
  await fill()
  await pull(`${mirror.url}/v2/app/manifests/2`)
  await eventually('it is kept', async () => (await explain('app:2')).image?.held === true)
  const missing = await explain('app:2')
  t.match(
    missing.image!.parts.map(({ state }) => state),
    ['missing', 'missing', 'missing', 'missing'],
  )
  t.match(missing.pull.sentences, [
    /from here/,
    '4 of 4 blobs are not here and would be fetched from docker.io',
  ])

  const [slow = '', wrong = '', short = ''] = big.layers.map(({ digest }) => digest)
  const rule = upstream.fault({ kind: 'blob', ref: slow }, { hang: 'midBody', hangAfterBytes: 100_000 })
  const pulling = pull(`${mirror.url}/v2/app/blobs/${slow}`)
  await eventually('it is on its way', async () => {
    const part = (await explain('app:2')).image!.parts[1]!
    return part.state === 'fetching' && part.fetching!.bytes > 50_000 && part.fetching!.followed
  })
  t.match((await explain('app:2')).pull.sentences[1], /; 1 are on their way$/)
  rule.remove()
  upstream.closeIdleConnections()
  upstream.fault({ kind: 'blob', ref: wrong }, { corrupt: 10 })
  t.equal((await pull(`${mirror.url}/v2/app/blobs/${wrong}`)).status, 502)
  await pull(`${mirror.url}/v2/app/blobs/${short}`)
  await pulling
  await settled(mirror)
  truncateSync(blobFile(mirror.root, big.layers[2]!.digest), 399)
  const told = await explain('app:2')
  t.match(told.image!.parts, [
    { role: 'config', state: 'missing' },
    { state: 'present' },
    { state: 'missing', silentForMs: 10_000 },
    { state: 'wrong size', found: 399, size: 400 },
  ])
  t.match(told.pull.sentences[1], /^3 of 4 blobs are not here, and docker\.io sent wrong bytes for one: 502/)
})

test('an index: its platforms, in short', async (t) => {
  const { explain, upstream, mirror } = await start(t)
  const amd64 = image({ seed: 'a', layers: [100] })
  const arm64 = image({ seed: 'b', layers: [100] })
  const riscv = image({ seed: 'c', layers: [100] })
  upstream.addImage(REPO, '3', index({ images: { amd64, arm64, riscv } }))
  const get = (what: string) => pull(`${mirror.url}/v2/app/${what}`)
  await get('manifests/3')
  for (const it of [amd64, arm64]) await get(`manifests/${it.manifest.digest}`)
  for (const it of amd64.blobs) await get(`blobs/${it.digest}`)
  await settled(mirror)
  await eventually('all of it is written down', async () => {
    const { platforms } = (await explain('app:3')).image ?? {}
    return platforms?.map(({ state }) => state).join() === 'present,partial,missing'
  })
  const told = await explain('app:3')
  t.match(told.image!.platforms, [
    { platform: 'linux/amd64', digest: amd64.manifest.digest, missingBytes: 0 },
    { platform: 'linux/arm64', presentBytes: arm64.manifest.bytes.length, missingBytes: Number },
    { platform: 'linux/riscv', presentBytes: 0 },
  ])
  t.same(told.image!.parts, [])
  t.match(told.pull.sentences[1], 'here in full: linux/amd64; the rest would come from docker.io')
  t.match((await explain(`app@${amd64.manifest.digest}`)).image, { held: true, totals: { missingParts: 0 } })
})

test('pins: a glob keeps whatever the tags that it matches refer to', async (t) => {
  const { explain, fill, first, upstream, mirror } = await start(t, {
    cache: { pin: ['docker.io/library/app:pinned'], prefetch: 'off' },
  })
  await fill()
  t.match((await explain()).keeping, { pinnedBy: [] })
  upstream.addImage(REPO, 'pinned', first)
  await pull(`${mirror.url}/v2/app/manifests/pinned`)
  await eventually('the tag is known', async () => (await explain('app:pinned')).tag !== undefined)
  for (const ref of ['app:pinned', 'app:1', `app@${first.manifest.digest}`]) {
    t.match((await explain(ref)).keeping, {
      pinnedBy: [{ glob: 'docker.io/library/app:pinned', name: 'docker.io/library/app:pinned' }],
      sentence: /`cache\.pin` matches docker\.io\/library\/app:pinned: never evicted$/,
    })
  }
})
