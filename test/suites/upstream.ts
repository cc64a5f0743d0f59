/**
 * What every {@link Upstream} does, whatever stands behind it.
 */
import type { Test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import type { Upstream } from '../../src/upstream/upstream.ts'
import { image, index, ZERO_BLOB, type Content, type Image } from '../support/images.ts'
import { bytesOf } from '../support/upstream-client.ts'

export interface UpstreamFixture {
  readonly upstream: Upstream
  addImage(repo: string, tag: string | undefined, image: Image): void
  addBlob(repo: string, blob: Content): void
}

const name = parseRepositoryName('some/where')
const tag = parseTag('1.0')
const none = new URLSearchParams()

export function upstreamSuite(t: Test, make: (t: Test) => Promise<UpstreamFixture>): void {
  const { signal } = new AbortController()

  void t.test('a tag gives a manifest verbatim, with the digest of its bytes', async (t) => {
    const fixture = await make(t)
    const child = image({ format: 'docker' })
    const all = index({ images: { amd64: child, arm64: image({ architecture: 'arm64' }) } })
    fixture.addImage(name, tag, all)
    const manifest = await fixture.upstream.manifest(name, tag, signal)
    t.same(manifest?.bytes, all.manifest.bytes)
    t.equal(manifest?.digest, all.manifest.digest)
    t.equal(manifest?.contentType, all.manifest.mediaType)
    const byDigest = await fixture.upstream.manifest(name, child.manifest.digest, signal)
    t.same(byDigest?.bytes, child.manifest.bytes)
  })

  void t.test('HEAD tells digest, size and type of a manifest', async (t) => {
    const fixture = await make(t)
    const { manifest } = image()
    fixture.addImage(name, tag, image())
    const expected = {
      result: 'present',
      digest: manifest.digest,
      size: manifest.bytes.length,
      mediaType: manifest.mediaType,
    }
    t.same(await fixture.upstream.headManifest(name, tag, signal), expected)
    t.same(await fixture.upstream.headManifest(name, manifest.digest, signal), expected)
  })

  void t.test('sha512 manifests and blobs are as good as sha256 ones', async (t) => {
    const fixture = await make(t)
    const held = image({ algorithm: 'sha512', layers: [{ size: 5000, algorithm: 'sha512' }] })
    fixture.addImage(name, tag, held)
    t.match(held.manifest.digest, /^sha512:/)
    t.equal((await fixture.upstream.manifest(name, tag, signal))?.digest, held.manifest.digest)
    t.equal(
      (await fixture.upstream.manifest(name, held.manifest.digest, signal))?.digest,
      held.manifest.digest,
    )
    const [layer] = held.layers
    const blob = await fixture.upstream.blob(name, layer!.digest, { from: 0, signal })
    t.ok((await bytesOf(blob)).equals(layer!.bytes))
  })

  void t.test('what is not there is undefined', async (t) => {
    const fixture = await make(t)
    fixture.addImage(name, tag, image())
    const unknown = digestOf(Buffer.from('never pushed'))
    const { upstream } = fixture
    t.equal(await upstream.manifest(name, parseTag('nope'), signal), undefined)
    t.equal(await upstream.manifest(name, unknown, signal), undefined)
    t.same(await upstream.headManifest(name, parseTag('nope'), signal), { result: 'absent' })
    t.equal(await upstream.blob(name, unknown, { from: 0, signal }), undefined)
    t.equal(await upstream.headBlob(name, unknown, signal), undefined)
    const nowhere = parseRepositoryName('no/where')
    t.equal(await upstream.tags(nowhere, none, signal), undefined)
  })

  void t.test('a blob comes whole, from an offset, and in part', async (t) => {
    const fixture = await make(t)
    const held = image({ layers: [300_000] })
    fixture.addImage(name, tag, held)
    const { digest, bytes } = held.layers[0]!
    const { upstream } = fixture
    t.same(await upstream.headBlob(name, digest, signal), { size: bytes.length })

    const whole = await upstream.blob(name, digest, { from: 0, signal })
    t.match(whole, { start: 0, size: bytes.length })
    t.ok((await bytesOf(whole)).equals(bytes))

    const rest = await upstream.blob(name, digest, { from: 250_000, signal })
    t.match(rest, { start: 250_000, size: bytes.length })
    t.ok((await bytesOf(rest)).equals(bytes.subarray(250_000)))

    const part = await upstream.blob(name, digest, { from: 10, to: 20, signal })
    t.match(part, { start: 10, size: bytes.length })
    t.ok((await bytesOf(part)).equals(bytes.subarray(10, 20)))
  })

  void t.test('nothing follows the last byte, and that is no error', async (t) => {
    const fixture = await make(t)
    const held = image({ layers: [1000] })
    fixture.addImage(name, tag, held)
    const blob = await fixture.upstream.blob(name, held.layers[0]!.digest, { from: 1000, signal })
    t.match(blob, { start: 1000, size: 1000 })
    t.equal((await bytesOf(blob)).length, 0)
  })

  void t.test('the empty blob is a blob', async (t) => {
    const fixture = await make(t)
    fixture.addBlob(name, ZERO_BLOB)
    t.same(await fixture.upstream.headBlob(name, ZERO_BLOB.digest, signal), { size: 0 })
    const blob = await fixture.upstream.blob(name, ZERO_BLOB.digest, { from: 0, signal })
    t.match(blob, { start: 0, size: 0 })
    t.equal((await bytesOf(blob)).length, 0)
  })

  void t.test('tags come in pages whose next query is handed on as it is', async (t) => {
    const fixture = await make(t)
    for (const it of ['a', 'b', 'c']) fixture.addImage(name, it, image())
    const first = await fixture.upstream.tags(name, new URLSearchParams({ n: '2' }), signal)
    t.same(first?.tags, ['a', 'b'])
    const second = await fixture.upstream.tags(name, first!.next!, signal)
    t.same(second, { tags: ['c'], next: undefined })
  })

  void t.test('referrers come as an index, filtered where the registry filters', async (t) => {
    const fixture = await make(t)
    const subject = image()
    fixture.addImage(name, tag, subject)
    for (const artifactType of ['application/x.sbom', 'application/x.signature']) {
      fixture.addImage(name, undefined, image({ subject: subject.manifest, artifactType, layers: [10] }))
    }
    const all = await fixture.upstream.referrers(name, subject.manifest.digest, none, signal)
    t.equal((JSON.parse(all!.bytes.toString()) as { manifests: [] }).manifests.length, 2)
    t.equal(all?.filtersApplied, undefined)
    const query = new URLSearchParams({ artifactType: 'application/x.sbom' })
    const some = await fixture.upstream.referrers(name, subject.manifest.digest, query, signal)
    t.match(JSON.parse(some!.bytes.toString()), { manifests: [{ artifactType: 'application/x.sbom' }] })
    t.equal(some?.filtersApplied, 'artifactType')
  })

  void t.test('a caller who leaves gets his own reason back', async (t) => {
    const fixture = await make(t)
    const held = image({ layers: [3_000_000] })
    fixture.addImage(name, tag, held)
    const reason = new Error('enough')
    const gone = AbortSignal.abort(reason)
    const { upstream } = fixture
    const { digest } = held.layers[0]!
    await t.rejects(upstream.manifest(name, tag, gone), reason)
    await t.rejects(upstream.headManifest(name, tag, gone), reason)
    await t.rejects(upstream.blob(name, digest, { from: 0, signal: gone }), reason)
    await t.rejects(upstream.tags(name, none, gone), reason)

    const leaving = new AbortController()
    const blob = await upstream.blob(name, digest, { from: 0, signal: leaving.signal })
    leaving.abort(reason)
    await t.rejects(bytesOf(blob), reason)
  })
}
