/** Tags that change, or go, while we look. */
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { eventually, pull } from '../../support/app.ts'
import { image, index } from '../../support/images.ts'
import { isConsistent, MINUTE, REPO, startTagged } from '../../support/tagged.ts'
import { codeOf } from '../../support/two-upstreams.ts'

const second = image({ layers: [200], seed: 'second' })
const both = index({ images: { arm64: second, amd64: image({ layers: [300], seed: 'amd64' }) } })

test('tagFlapping: with two backends that take turns every answer is one of theirs', async (t) => {
  const { upstream, first, get, head, age, warm } = await startTagged(t)
  await warm()
  upstream.addImage(REPO, undefined, second)
  upstream.set({ tagFlapping: { [`${REPO}:1`]: [second, first] } })
  const digests = new Set([first.manifest.digest, second.manifest.digest])
  for (let round = 0; round < 12; round += 1) {
    age()
    if (round % 3 === 2) {
      // As containerd does it.
      const told = await head()
      t.equal(told.status, 200)
      const named = await get(String(told.headers['docker-content-digest']))
      t.ok(isConsistent(named))
      t.equal(digestOf(named.body), told.headers['docker-content-digest'])
    }
    const answer = await get()
    t.ok(isConsistent(answer), `round ${round}: ${answer.status} ${answer.cache ?? ''}`)
    t.ok(digests.has(digestOf(answer.body)))
  }
})

test('tagFlapping: what one backend told by HEAD is had from it, though another is asked first', async (t) => {
  const { upstream, first, get, head, asked } = await startTagged(t)
  upstream.addImage(REPO, undefined, second)
  upstream.set({ tagFlapping: { [`${REPO}:1`]: [second, first] } })
  const told = await head()
  t.equal(told.headers['docker-content-digest'], second.manifest.digest)
  const named = await get(second.manifest.digest)
  t.ok(isConsistent(named))
  t.same([asked('HEAD'), asked('GET')], [1, 2])
})

test('deletedUpstream: manifest: the tag is gone, and what is here stays readable by digest', async (t) => {
  const { upstream, first, get, head, age, warm, blob } = await startTagged(t)
  await warm()
  for (const { digest } of first.blobs) await blob(digest)
  upstream.deleteManifest(REPO, first.manifest.digest)
  age()
  const gone = await get()
  t.equal(gone.status, 404)
  t.equal(codeOf(gone), 'MANIFEST_UNKNOWN')
  t.equal((await head()).status, 404)
  t.equal((await get(first.manifest.digest)).cache, 'hit')
  for (const { digest, bytes } of first.blobs) t.ok((await blob(digest)).body.equals(bytes))
})

test('deletedUpstream: manifest: what a HEAD told of it holds until a GET tells otherwise', async (t) => {
  const { upstream, first, get, head, age } = await startTagged(t)
  const { digest } = first.manifest
  t.equal((await head(digest)).status, 200)
  upstream.deleteManifest(REPO, digest)
  t.equal((await get(digest)).status, 404)
  t.equal((await head(digest)).status, 404)
  age()
  t.equal((await head(digest)).status, 404)
})

test('deletedUpstream: blob: what is not here is unknown, what is here stays', async (t) => {
  const { upstream, first, get, blob, mirror } = await startTagged(t, { cache: { prefetch: 'off' } })
  await get()
  const [config, layer] = [first.config, first.layers[0]!]
  await eventually('the config is here', async () => (await blob(config.digest)).cache === 'hit')
  for (const { digest } of [config, layer]) upstream.deleteBlob(REPO, digest)
  const gone = await blob(layer.digest)
  t.equal(gone.status, 404)
  t.equal(codeOf(gone), 'BLOB_UNKNOWN')
  t.equal((await blob(config.digest)).status, 200)
  upstream.addBlob(REPO, layer)
  await eventually('it is back', async () => (await blob(layer.digest)).status === 200)
  t.equal((await pull(`${mirror.url}/v2/`)).status, 200)
})

test('deletedUpstream: repo: tags are gone, and what is here stays readable by digest', async (t) => {
  const { upstream, first, get, age, warm, blob, mirror } = await startTagged(t)
  await warm()
  for (const { digest } of first.blobs) {
    await eventually('the blob is here', async () => (await blob(digest)).cache === 'hit')
  }
  upstream.deleteRepository(REPO)
  age()
  t.equal((await get()).status, 404)
  t.equal((await pull(`${mirror.url}/v2/${REPO}/tags/list`)).status, 404)
  t.equal((await get(first.manifest.digest)).status, 200)
  for (const { digest } of first.blobs) t.equal((await blob(digest)).status, 200)
})

test('tagMoves: once per tagTtl upstream is asked by one HEAD, and never is an index mixed with another', async (t) => {
  const { upstream, clock, get, asked } = await startTagged(t)
  const [one, two] = [both, index({ images: { amd64: image({ layers: [5], seed: 'later' }) } })]
  upstream.addImage(REPO, '1', one)
  await eventually('it is kept', async () => (await get()).cache === 'hit')
  upstream.moveTag(REPO, '1', two)
  t.equal((await get()).headers['docker-content-digest'], one.manifest.digest)
  const heads = asked('HEAD')
  clock.now += MINUTE + 1
  for (let turn = 0; turn < 10; turn += 1) {
    t.equal((await get()).headers['docker-content-digest'], two.manifest.digest)
  }
  t.equal(asked('HEAD'), heads + 1)
  for (const { digest, bytes } of [...one.manifests, ...two.manifests]) {
    t.ok((await get(digest)).body.equals(bytes), 'children of both are readable')
  }
})

test('tagMoves: what a HEAD told of is not here yet, so what is here stays the answer of a bad day', async (t) => {
  const { upstream, first, get, head, age, warm, asked } = await startTagged(t)
  await warm()
  upstream.addImage(REPO, '1', second)
  age()
  t.equal((await head()).headers['docker-content-digest'], second.manifest.digest)
  const before = asked('HEAD')
  t.equal((await head()).headers['docker-content-digest'], second.manifest.digest)
  t.equal(asked('HEAD'), before, 'what it said is remembered as long as a tag is')
  await upstream.stop()
  const stale = await get()
  t.equal(stale.status, 200)
  t.equal(stale.cache, 'stale')
  t.equal(digestOf(stale.body), first.manifest.digest)
})
