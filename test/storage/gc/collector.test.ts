/** What is collected, when, and what never is. */
import { test, type Test } from 'tap'
import { LOCAL } from '../../../src/storage/metadata/metadata.ts'
import type { Collected } from '../../../src/storage/gc/collector.ts'
import { parseRepositoryName, type Reference } from '../../../src/oci/reference.ts'
import { eventually } from '../../support/app.ts'
import { image, index, type Content, type Image } from '../../support/images.ts'
import { HOUR, startLocalRegistry, type LocalRegistry } from '../../support/local-registry.ts'

const NEVER = new AbortController().signal
const DAY = 24 * HOUR
const app = image({ layers: [100, 200], seed: 'app' })

async function bytesHere({ store }: LocalRegistry, contents: readonly Content[]): Promise<boolean[]> {
  return Promise.all(contents.map(async ({ digest }) => (await store.stat(digest)) !== undefined))
}

/** A collection, and that a dry run foresaw all of it. */
async function collectAsPlanned(t: Test, registry: LocalRegistry): Promise<readonly Collected[]> {
  const planned = await registry.collect({ dryRun: true })
  const collected = await registry.collect()
  t.same(sorted(collected), sorted(planned), 'what was planned goes, and nothing else')
  return collected
}

const sorted = (all: readonly Collected[]): string[] => all.map((it) => JSON.stringify(it)).sort()

const everything = ({ blobs, manifests }: Image): Content[] => [...blobs, ...manifests]

test('a deleted tag lets everything of its image go, after the grace period', async (t) => {
  const registry = await startLocalRegistry(t)
  await registry.pushImage('team/app', app, '1')
  registry.now += DAY
  t.same(await registry.collect(), [], 'what is named stays for ever')
  await registry.pushes('team/app').deleteManifest('1' as Reference)
  registry.now += DAY - 1
  t.same(await registry.collect(), [])
  registry.now += 1
  const planned = await registry.collect({ dryRun: true })
  t.match(planned[0], { what: 'manifest', repository: 'team/app', digest: app.manifest.digest })
  t.match(planned[0]?.why, '24 hours ago')
  t.ok((await bytesHere(registry, everything(app))).every(Boolean), 'a dry run removes nothing')
  const collected = await registry.collect()
  t.same(sorted(collected), sorted(planned), 'what was planned goes, and nothing else')
  t.equal(
    collected.reduce((sum, { bytes }) => sum + bytes, 0),
    everything(app).reduce((sum, { bytes }) => sum + bytes.length, 0),
  )
  t.notOk((await bytesHere(registry, everything(app))).some(Boolean))
  t.same(await registry.collect(), [])
})

test('a tag that moved lets nothing go: its digest may be pinned somewhere', async (t) => {
  const registry = await startLocalRegistry(t)
  await registry.pushImage('team/app', app, '1')
  await registry.pushImage('team/app', image({ seed: 'newer' }), '1')
  registry.now += 1000 * DAY
  t.same(await registry.collect(), [])
  t.ok((await bytesHere(registry, everything(app))).every(Boolean))
})

test('an index takes its children along, but not those that another names', async (t) => {
  const registry = await startLocalRegistry(t)
  const [arm, amd] = [image({ seed: 'arm' }), image({ seed: 'amd' })]
  const both = index({ images: { arm, amd } })
  const one = index({ images: { amd } })
  await registry.pushImage('team/app', both, 'both')
  await registry.pushImage('team/app', one, 'one')
  await registry.pushes('team/app').deleteManifest('both' as Reference)
  registry.now += DAY
  await collectAsPlanned(t, registry)
  t.same(await bytesHere(registry, [both.manifest, arm.manifest, arm.config]), [false, false, false])
  t.ok((await bytesHere(registry, everything(one))).every(Boolean))
})

test('a child that was pushed again stays, for the index that is still to come', async (t) => {
  const registry = await startLocalRegistry(t)
  const arm = image({ seed: 'arm' })
  await registry.pushImage('team/app', index({ images: { arm } }), 'both')
  await registry.pushes('team/app').deleteManifest('both' as Reference)
  registry.now += DAY
  await registry.pushImage('team/app', arm)
  const planned = await registry.collect({ dryRun: true })
  t.same(sorted(await registry.collect()), sorted(planned))
  t.ok(await registry.reader('team/app').manifest(arm.manifest.digest))
  t.ok((await bytesHere(registry, everything(arm))).every(Boolean))
})

test('a manifest that somebody was told is here stays for the whole period', async (t) => {
  const registry = await startLocalRegistry(t)
  await registry.pushImage('team/app', app, '1')
  await registry.pushes('team/app').deleteManifest('1' as Reference)
  registry.now += DAY - HOUR
  t.ok(await registry.reader('team/app').headManifest(app.manifest.digest))
  registry.now += DAY - 1
  t.same(await registry.collect({ dryRun: true }), [])
  t.same(await registry.collect(), [])
  registry.now += 1
  await registry.collect()
  t.notOk((await bytesHere(registry, everything(app))).some(Boolean))
})

test('whoever looks at a manifest just as it is to go is told the truth', async (t) => {
  for (let turns = 0; turns < 4; turns++) {
    const registry = await startLocalRegistry(t)
    await registry.pushImage('team/app', app, '1')
    await registry.pushes('team/app').deleteManifest('1' as Reference)
    registry.now += DAY
    let asked = 0
    let told: Promise<unknown> | undefined
    registry.turn = async () => {
      if (asked++ !== turns) return
      told = registry.reader('team/app').headManifest(app.manifest.digest)
      await told
    }
    await registry.collect()
    registry.turn = () => Promise.resolve()
    const here = await registry.reader('team/app').manifest(app.manifest.digest)
    if (told !== undefined && (await told) !== undefined) t.ok(here, `after ${String(turns)} turns`)
  }
})

test('what refers to an image goes with it', async (t) => {
  const registry = await startLocalRegistry(t)
  const signature = image({ seed: 'signature', subject: app.manifest, artifactType: 'application/vnd.sig' })
  await registry.pushImage('team/app', signature)
  await registry.pushImage('team/app', app, '1')
  registry.now += DAY
  t.same(await registry.collect(), [])
  await registry.pushes('team/app').deleteManifest('1' as Reference)
  registry.now += DAY
  await collectAsPlanned(t, registry)
  t.notOk((await bytesHere(registry, [...everything(app), ...everything(signature)])).some(Boolean))
})

test('of what an index named, stays what a tag names, and what refers to something that stays', async (t) => {
  const registry = await startLocalRegistry(t)
  const tagged = image({ seed: 'tagged' })
  const signature = image({ seed: 'signature', subject: app.manifest, artifactType: 'application/vnd.sig' })
  const gone = image({ seed: 'gone' })
  const all = index({ images: { one: tagged, two: signature, three: gone } })
  await registry.pushImage('team/app', app, '1')
  await registry.pushImage('team/app', all, 'all')
  await registry.pushImage('team/app', tagged, 'tagged')
  await registry.pushes('team/app').deleteManifest('all' as Reference)
  registry.now += DAY
  await collectAsPlanned(t, registry)
  t.same(
    await bytesHere(
      registry,
      [all, tagged, signature, gone].map(({ manifest }) => manifest),
    ),
    [false, true, true, false],
  )
  t.ok((await bytesHere(registry, [...everything(tagged), ...everything(signature)])).every(Boolean))
})

test('an upload that no manifest followed goes; whoever was told "it is here" has the whole period again', async (t) => {
  const registry = await startLocalRegistry(t)
  const [blob] = app.blobs as [Content]
  await registry.pushBlob('team/app', blob)
  registry.now += DAY - HOUR
  t.equal((await registry.reader('team/app').headBlob(blob.digest))?.size, blob.bytes.length)
  registry.now += DAY - 1
  t.same(await registry.collect(), [])
  registry.now += 1
  await collectAsPlanned(t, registry)
  t.same(await bytesHere(registry, [blob]), [false])
  t.equal(await registry.reader('team/app').headBlob(blob.digest), undefined)
})

test('bytes that another repository holds, or an upstream gave, stay', async (t) => {
  const registry = await startLocalRegistry(t)
  const [mounted, mirrored] = app.blobs as [Content, Content]
  await registry.pushImage('team/one', app, '1')
  t.ok(await registry.pushes('team/two').mount(mounted.digest, parseRepositoryName('team/one')))
  await registry.metadata.transaction((tx) =>
    tx.recordDelivery('docker.io', mirrored.digest, mirrored.bytes.length, registry.now),
  )
  await registry.pushes('team/one').deleteManifest(app.manifest.digest)
  registry.now += DAY - 1
  await registry.pushBlob('team/two', mounted)
  registry.now += 1
  await collectAsPlanned(t, registry)
  t.same(await bytesHere(registry, [mounted, mirrored, app.layers[1]!]), [true, true, false])
  t.ok(await registry.reader('team/two').holds(mounted.digest))
})

test('a file that the index has never heard of goes when the grace period has passed since it was found', async (t) => {
  const registry = await startLocalRegistry(t)
  await registry.pushImage('team/app', app, '1')
  const stray = image({ layers: [50], seed: 'stray' }).layers[0]!
  await registry.pushBlob('team/app', stray)
  await registry.metadata.transaction((tx) => tx.forgetBlob(stray.digest))
  registry.now += 10 * DAY
  t.same(await registry.collect(), [], 'it is found')
  registry.now += DAY - 1
  t.same(await registry.collect(), [])
  t.same(await bytesHere(registry, [stray]), [true])
  registry.now += 1
  const collected = await collectAsPlanned(t, registry)
  t.match(collected, [{ what: 'blob', digest: stray.digest, bytes: 50, why: 'no repository holds it' }])
  t.same(await bytesHere(registry, [stray]), [false])
})

test('a push that adopts bytes just as they are to go wins', async (t) => {
  const registry = await startLocalRegistry(t)
  const [blob] = app.blobs as [Content]
  await registry.pushBlob('team/one', blob)
  registry.now += DAY
  const adopting = await registry.locks.exclusive(`blob ${blob.digest}`, NEVER)
  const collecting = registry.collect()
  const key = { registry: LOCAL, name: parseRepositoryName('team/two') }
  // The link of the first has gone, so the collector stands before the lock.
  await eventually('it is unlinked', async () => !(await registry.reader('team/one').holds(blob.digest)))
  await registry.metadata.transaction((tx) => {
    tx.putRepository(key, registry.now)
    tx.linkBlob(key, blob.digest, blob.bytes.length, registry.now)
  })
  adopting[Symbol.dispose]()
  await collecting
  t.ok(await registry.reader('team/two').holds(blob.digest))
})

test('a manifest that was checked already gets all its blobs', async (t) => {
  const registry = await startLocalRegistry(t)
  for (const blob of app.blobs) await registry.pushBlob('team/app', blob)
  registry.now += DAY
  // Between its check and its commit a push waits for its manifest's own lock.
  const between = await registry.locks.exclusive(`blob ${app.manifest.digest}`, NEVER)
  const pushing = registry.pushManifest('team/app', app.manifest, '1')
  await eventually('the push holds its repository', async () => {
    try {
      using _free = await registry.locks.exclusive('repository team/app', AbortSignal.timeout(100))
      return false
    } catch {
      return true
    }
  })
  const collecting = registry.collect()
  between[Symbol.dispose]()
  await Promise.all([pushing, collecting])
  t.ok((await bytesHere(registry, everything(app))).every(Boolean))
  for (const { digest } of app.blobs) t.ok(await registry.reader('team/app').holds(digest))
})

test('a server collects on its own, says what it freed, and counts it', async (t) => {
  const registry = await startLocalRegistry(t)
  const [blob] = app.blobs as [Content]
  await registry.pushBlob('team/app', blob)
  registry.now += DAY
  const schedule = registry.collector.schedule(1)
  t.teardown(() => schedule[Symbol.asyncDispose]())
  await eventually('it is collected', async () => (await registry.store.stat(blob.digest)) === undefined)
  const said = (): Record<string, unknown> | undefined =>
    registry.lines.find(({ msg }) => msg === 'collected')
  await eventually('it is logged', () => said() !== undefined)
  t.match(said(), { level: 'info', entries: 2, bytes: blob.bytes.length, result: 'done' })
  const metrics = await registry.metrics.registry.metrics()
  t.match(metrics, `entrepot_collected_bytes_total ${String(blob.bytes.length)}`)
  t.match(metrics, /entrepot_collections_total\{result="done"\} \d/)
  await schedule[Symbol.asyncDispose]()
  const more = app.blobs[1]!
  await registry.pushBlob('team/app', more)
  registry.now += DAY
  // After whatever collects.
  const left = await registry.collect({ dryRun: true })
  t.match(left, [{ what: 'link' }, { what: 'blob', digest: more.digest }], 'it stops when it is told to')
})

test('a collection that is given up leaves the rest for the next; a second one waits for the first', async (t) => {
  const registry = await startLocalRegistry(t)
  for (const blob of app.blobs) await registry.pushBlob('team/app', blob)
  registry.now += DAY
  const first = registry.collector.run({ dryRun: false, signal: NEVER })
  t.match(await first.next(), { done: false, value: { what: 'link' } })
  const impatient = registry.collector.run({ dryRun: true, signal: AbortSignal.timeout(50) })
  await t.rejects(impatient.next(), { name: 'TimeoutError' })
  const second = registry.collect()
  await first.return()
  t.equal(
    (await second).filter(({ what }) => what === 'blob').length,
    app.blobs.length,
    'the second went on when the first let go',
  )
  t.match(await registry.metrics.registry.metrics(), 'entrepot_collections_total{result="broken_off"} 1')
})
