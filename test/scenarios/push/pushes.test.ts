/** What a push of manifests means, and what deleting them does. */
import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { test } from 'tap'
import { MAX_MANIFEST_BYTES, MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { settled } from '../../support/app.ts'
import { blobFile } from '../../support/folder.ts'
import { content, image, index, layer, schema1, ZERO_BLOB, type Content } from '../../support/images.ts'
import { pushBlob, pushImage, pushManifest, send } from '../../support/push.ts'
import { codeOf, messageOf, startTwoUpstreams } from '../../support/two-upstreams.ts'

const app = image({ layers: [70_000, 10], seed: 'app' })

function listOf(body: Buffer): { digest: string; artifactType?: string }[] {
  return (JSON.parse(body.toString()) as { manifests: { digest: string; artifactType?: string }[] }).manifests
}

test('an image is pulled as it was pushed, by tag and by digest', async (t) => {
  const { mirror, get, head, asked } = await startTwoUpstreams(t)
  const both = index({ images: { amd64: app, arm64: image({ layers: [5], seed: 'arm', format: 'docker' }) } })
  const answer = await pushImage(`${mirror.url}/v2/team/app`, both, 'latest')
  t.equal(answer.status, 201)
  t.match(answer.headers, {
    location: `/v2/team/app/manifests/${both.manifest.digest}`,
    'docker-content-digest': both.manifest.digest,
    'oci-subject': undefined,
  })
  for (const { digest, bytes, mediaType } of both.manifests) {
    const found = await get(`team/app/manifests/${digest}`)
    t.ok(found.body.equals(bytes))
    t.equal(found.headers['content-type'], mediaType)
  }
  for (const { digest, bytes } of both.blobs) {
    t.ok((await get(`team/app/blobs/${digest}`)).body.equals(bytes))
    t.equal((await head(`team/app/blobs/${digest}`)).headers['content-length'], String(bytes.length))
  }
  t.equal((await get('team/app/manifests/latest')).headers['docker-content-digest'], both.manifest.digest)
  // Until its first blob is here the name is nobody’s, and the default upstream is asked.
  t.equal(asked() <= 1, true)
})

test('a manifest is what its digest says, and its type what Content-Type says', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, app, '1')
  const other = image({ layers: [3], seed: 'other' })
  const wrong = await pushManifest(repository, app.manifest, other.manifest.digest)
  t.same([wrong.status, codeOf(wrong)], [400, 'DIGEST_INVALID'])
  const sha512 = content(app.manifest.mediaType, app.manifest.bytes, 'sha512')
  t.equal((await pushManifest(repository, sha512)).status, 201)
  t.ok((await get(`team/app/manifests/${sha512.digest}`)).body.equals(app.manifest.bytes))
  const contradicted = await pushManifest(
    repository,
    { ...app.manifest, mediaType: MEDIA_TYPES.dockerManifest },
    '2',
  )
  t.same([contradicted.status, codeOf(contradicted)], [400, 'MANIFEST_INVALID'])
  const withCharset = { ...app.manifest, mediaType: `${app.manifest.mediaType}; charset=utf-8` }
  t.equal((await pushManifest(repository, withCharset, '3')).status, 201)
  t.equal((await get('team/app/manifests/3')).headers['content-type'], app.manifest.mediaType)
  for (const text of ['', 'null', '[]', '{"schemaVersion":2,', 'x'.repeat(100)]) {
    const nonsense = await send(`${repository}/manifests/4`, 'PUT', text, {
      'content-type': MEDIA_TYPES.ociManifest,
    })
    t.same([nonsense.status, codeOf(nonsense)], [400, 'MANIFEST_INVALID'], text)
  }
})

test('schema 1 is refused with a sentence, however it is called, and nothing of it is kept', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, app, '1')
  const signed = schema1()
  const plain = schema1({ plain: true })
  for (const [manifest, declared] of [
    [signed, signed.mediaType],
    [plain, plain.mediaType],
    [signed, `${signed.mediaType}; charset=utf-8`],
    // Only its own words say what it is.
    [signed, 'application/json'],
    [plain, ''],
  ] as const) {
    const { bytes } = manifest
    for (const reference of ['old', digestOf(bytes)]) {
      const url = `${repository}/manifests/${reference}`
      const refused = await send(url, 'PUT', bytes, declared === '' ? {} : { 'content-type': declared })
      t.same([refused.status, codeOf(refused)], [400, 'MANIFEST_INVALID'], declared)
      t.match(messageOf(refused), /schema 1 are not taken.* as OCI, .* schema 2/)
      t.equal((await get(`team/app/manifests/${reference}`)).status, 404)
    }
  }
  // What it is called by those who made it is no digest of its bytes, and that is the sentence that helps.
  const url = `${repository}/manifests/${signed.digest}`
  const named = await send(url, 'PUT', signed.bytes, { 'content-type': signed.mediaType })
  t.same([named.status, codeOf(named)], [400, 'MANIFEST_INVALID'])
})

test('a manifest names blobs of its own repository only', async (t) => {
  const { mirror } = await startTwoUpstreams(t)
  await pushImage(`${mirror.url}/v2/team/one`, app, '1')
  const refused = await pushManifest(`${mirror.url}/v2/team/two`, app.manifest, '1')
  t.same([refused.status, codeOf(refused)], [404, 'MANIFEST_BLOB_UNKNOWN'])
  t.match(refused.body.toString(), app.config.digest)
  for (const blob of app.blobs.slice(0, 2)) await pushBlob(`${mirror.url}/v2/team/two`, blob)
  t.equal(
    (await pushManifest(`${mirror.url}/v2/team/two`, app.manifest, '1')).status,
    404,
    'one is missing still',
  )
  await pushBlob(`${mirror.url}/v2/team/two`, app.blobs[2]!)
  t.equal((await pushManifest(`${mirror.url}/v2/team/two`, app.manifest, '1')).status, 201)
})

test('a blob of another size than the manifest says is refused, layers that nobody holds are not', async (t) => {
  const { mirror } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  const foreign = image({ layers: [{ size: 100, urls: ['https://example.com/layer'] }, 5], seed: 'foreign' })
  t.equal((await pushImage(repository, foreign, 'foreign')).status, 201)
  for (const size of ['"size": 6\n', '"sighs": 5\n', '"size": null\n']) {
    const text = foreign.manifest.bytes.toString().replace('"size": 5\n', size)
    const lying = await send(`${repository}/manifests/lying`, 'PUT', text, {
      'content-type': MEDIA_TYPES.ociManifest,
    })
    t.same([lying.status, codeOf(lying)], [400, 'MANIFEST_INVALID'], size)
  }
})

test('an index may come before what it names', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const both = index({ images: { amd64: app } })
  t.equal((await pushManifest(`${mirror.url}/v2/team/app`, both.manifest, '1')).status, 201)
  t.equal((await get('team/app/manifests/1')).status, 200)
  t.equal((await get(`team/app/manifests/${app.manifest.digest}`)).status, 404)
})

test('4 MiB are taken, a byte more is 413 before it is read', async (t) => {
  const { mirror } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  const config = layer({ size: 0 })
  await pushBlob(repository, config)
  const small = image({ layers: [1], seed: 'big' })
  for (const blob of small.blobs) await pushBlob(repository, blob)
  const bare = image({ layers: [1], seed: 'big', pad: 0 }).manifest.bytes.length
  const whole = image({ layers: [1], seed: 'big', pad: MAX_MANIFEST_BYTES - bare })
  t.equal(whole.manifest.bytes.length, MAX_MANIFEST_BYTES)
  t.equal((await pushManifest(repository, whole.manifest, 'whole')).status, 201)
  const more = image({ layers: [1], seed: 'big', pad: MAX_MANIFEST_BYTES - bare + 1 })
  const refused = await pushManifest(repository, more.manifest, 'more')
  t.same([refused.status, codeOf(refused)], [413, 'MANIFEST_TOO_LARGE'])
})

test('a client that waits for 100 Continue hears of a refusal instead', async (t) => {
  const { mirror } = await startTwoUpstreams(t)
  const { port } = new URL(mirror.url)
  const ask = (name: string, length: number): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = net.connect(Number(port), '127.0.0.1')
      socket.on('error', reject)
      socket.once('data', (chunk) => {
        socket.destroy()
        resolve(chunk.toString('latin1').split('\r\n')[0] ?? '')
      })
      socket.write(
        `PUT /v2/${name}/manifests/1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${MEDIA_TYPES.ociIndex}\r\n` +
          `Content-Length: ${String(length)}\r\nExpect: 100-continue\r\n\r\n`,
      )
    })
  t.equal(await ask('team/app', 100), 'HTTP/1.1 100 Continue')
  t.match(await ask('quay.io/app', 100), /^HTTP\/1\.1 403 /)
  t.match(await ask('team/app', MAX_MANIFEST_BYTES + 1), /^HTTP\/1\.1 413 /)
})

test('tag parameters name it too', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, app, 'first')
  const url = `${repository}/manifests/${app.manifest.digest}?tag=one&tag=two`
  const answer = await send(url, 'PUT', app.manifest.bytes, { 'content-type': app.manifest.mediaType })
  t.equal(answer.status, 201)
  t.same(answer.headers['oci-tag'], ['one', 'two'])
  for (const tag of ['first', 'one', 'two']) t.equal((await get(`team/app/manifests/${tag}`)).status, 200)
  const bad = await send(`${url}&tag=-no`, 'PUT', app.manifest.bytes)
  t.same([bad.status, codeOf(bad)], [400, 'TAG_INVALID'])
})

test('what refers to an image is found by it, filtered and a page at a time', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  const referrer = (name: string, artifactType: string): ReturnType<typeof image> =>
    image({ layers: [3], seed: name, subject: app.manifest, artifactType, annotations: { name } })
  const signatures = ['a', 'b', 'c'].map((name) => referrer(name, 'application/vnd.test.signature'))
  const sbom = referrer('sbom', 'application/vnd.test.sbom')
  for (const it of [...signatures, sbom]) {
    const answer = await pushImage(repository, it)
    t.equal(answer.status, 201, 'also before their subject is here')
    t.equal(answer.headers['oci-subject'], app.manifest.digest)
  }
  await pushImage(repository, app, '1')
  const path = `team/app/referrers/${app.manifest.digest}`
  const all = await get(path)
  t.equal(all.headers['content-type'], MEDIA_TYPES.ociIndex)
  t.same(
    new Set(listOf(all.body).map(({ digest }) => digest)),
    new Set([...signatures, sbom].map((it) => it.manifest.digest)),
  )
  const query = 'artifactType=application%2Fvnd.test.signature'
  const filtered = await get(`${path}?${query}`)
  t.equal(filtered.headers['oci-filters-applied'], 'artifactType')
  t.same(
    listOf(filtered.body).map(({ artifactType }) => artifactType),
    Array(3).fill('application/vnd.test.signature'),
  )

  const found: string[] = []
  for (let next: string | undefined = `/v2/${path}?n=2&${query}`; next !== undefined;) {
    const page = await get(next.slice('/v2/'.length))
    t.ok(listOf(page.body).length <= 2)
    found.push(...listOf(page.body).map(({ digest }) => digest))
    next = /^<([^>]+)>; rel="next"$/.exec(String(page.headers['link'] ?? ''))?.[1]
  }
  t.same(new Set(found), new Set(signatures.map((it) => it.manifest.digest)))
  t.equal(found.length, 3)

  t.equal((await send(`${repository}/manifests/${sbom.manifest.digest}`, 'DELETE')).status, 202)
  t.equal(listOf((await get(path)).body).length, 3)
  t.same(listOf((await get(`team/app/referrers/${ZERO_BLOB.digest}`)).body), [])
})

test('a referrers tag that somebody keeps follows what is pushed and deleted', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, app, '1')
  const [one, two] = ['one', 'two'].map((seed) => image({ layers: [3], seed, subject: app.manifest }))
  await pushImage(repository, one!)
  const tag = app.manifest.digest.replace(':', '-')
  t.equal((await get(`team/app/manifests/${tag}`)).status, 404, 'nobody keeps one yet')
  const kept = index({ images: { first: one! }, annotations: { kept: 'by a client' } })
  await pushManifest(repository, kept.manifest, tag)
  await pushImage(repository, two!)
  const listed = async (): Promise<string[]> =>
    listOf((await get(`team/app/manifests/${tag}`)).body).map(({ digest }) => digest)
  t.same(await listed(), [one!.manifest.digest, two!.manifest.digest])
  const now = await get(`team/app/manifests/${tag}`)
  t.match(now.body.toString(), 'by a client')
  t.ok(
    (await get(`team/app/manifests/${String(now.headers['docker-content-digest'])}`)).body.equals(now.body),
  )
  await send(`${repository}/manifests/${one!.manifest.digest}`, 'DELETE')
  t.same(await listed(), [two!.manifest.digest])
})

test('a referrers tag names what it was pushed as, also when that refers to the same image', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, app, '1')
  const [one, two] = ['one', 'two'].map((seed) => image({ layers: [3], seed, subject: app.manifest }))
  const tag = app.manifest.digest.replace(':', '-')
  await pushImage(repository, one!)
  await pushManifest(repository, index({ images: { one: one! } }).manifest, tag)
  t.equal((await pushImage(repository, two!, tag)).status, 201)
  t.ok((await get(`team/app/manifests/${tag}`)).body.equals(two!.manifest.bytes))
})

test('whatever else is under a referrers tag, what refers to an image can be pushed and deleted', async (t) => {
  const { mirror } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, app, '1')
  const tag = app.manifest.digest.replace(':', '-')
  const mediaType = 'application/vnd.example+json'
  const bytes = Buffer.from(JSON.stringify({ mediaType, manifests: [null, 1] }))
  t.equal((await pushManifest(repository, { bytes, mediaType, digest: digestOf(bytes) }, tag)).status, 201)
  const signature = image({ layers: [3], seed: 'signature', subject: app.manifest })
  t.equal((await pushImage(repository, signature)).status, 201)
  const url = `${repository}/manifests/${signature.manifest.digest}`
  t.equal((await send(url, 'DELETE')).status, 202)
})

test('manifests that have rotted on the disk stand in the way of no push and no deletion', async (t) => {
  const { mirror } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, app, '1')
  const tag = app.manifest.digest.replace(':', '-')
  const kept = index({ images: { app } }).manifest
  await pushManifest(repository, kept, tag)
  for (const { digest, bytes } of [kept, app.manifest]) {
    writeFileSync(blobFile(mirror.root, digest), Buffer.alloc(bytes.length, 'x'))
  }
  const signature = image({ layers: [3], seed: 'signature', subject: app.manifest })
  t.equal((await pushImage(repository, signature)).status, 201)
  t.equal((await send(`${repository}/manifests/${app.manifest.digest}`, 'DELETE')).status, 202)
})

test('deleting a tag leaves the manifest, deleting the manifest takes its tags along', async (t) => {
  const { mirror, get, asked } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  for (const tag of ['1', '2', '3']) await pushImage(repository, app, tag)
  const before = asked()
  t.equal((await send(`${repository}/manifests/1`, 'DELETE')).status, 202)
  const again = await send(`${repository}/manifests/1`, 'DELETE')
  t.same([again.status, codeOf(again)], [404, 'MANIFEST_UNKNOWN'])
  t.equal((await get('team/app/manifests/1')).status, 404)
  t.equal((await get(`team/app/manifests/${app.manifest.digest}`)).status, 200)
  t.same(JSON.parse((await get('team/app/tags/list')).body.toString()), {
    name: 'team/app',
    tags: ['2', '3'],
  })

  t.equal((await send(`${repository}/manifests/${app.manifest.digest}`, 'DELETE')).status, 202)
  for (const reference of ['2', '3', app.manifest.digest]) {
    t.equal((await get(`team/app/manifests/${reference}`)).status, 404)
  }
  t.same(JSON.parse((await get('team/app/tags/list')).body.toString()), { name: 'team/app', tags: [] })
  t.equal((await send(`${repository}/manifests/${app.manifest.digest}`, 'DELETE')).status, 404)

  const blob = app.layers[0]!.digest
  t.equal((await send(`${repository}/blobs/${blob}`, 'DELETE')).status, 202)
  t.equal((await get(`team/app/blobs/${blob}`)).status, 404)
  t.equal((await send(`${repository}/blobs/${blob}`, 'DELETE')).status, 404)
  t.equal(asked(), before, 'the name stays ours: upstream never hears of it')
})

test('a blob is mounted from a repository that has it, without its bytes', async (t) => {
  const { mirror, get, head, hub, quay, asked } = await startTwoUpstreams(t)
  const base = `${mirror.url}/v2`
  await pushImage(`${base}/team/one`, app, '1')
  const blob: Content = app.layers[0]!
  const mount = (name: string, digest: string, from?: string) =>
    send(`${base}/${name}/blobs/uploads/?mount=${digest}${from === undefined ? '' : `&from=${from}`}`, 'POST')
  const mounted = await mount('team/two', blob.digest, 'team/one')
  t.equal(mounted.status, 201)
  t.match(mounted.headers, {
    location: `/v2/team/two/blobs/${blob.digest}`,
    'docker-content-digest': blob.digest,
  })
  t.ok((await get(`team/two/blobs/${blob.digest}`)).body.equals(blob.bytes))

  const before = asked()
  for (const from of [undefined, 'team/none', 'quay.io/team/app']) {
    const fallen = await mount('team/three', blob.digest, from)
    t.equal(fallen.status, 202, `from ${String(from)}`)
    t.match(String(fallen.headers['location']), /^\/v2\/team\/three\/blobs\/uploads\//)
  }
  t.equal(asked(), before, 'nobody else is asked')

  const theirs = image({ layers: [1000, 2000], seed: 'theirs' })
  quay.addImage('team/app', '1', theirs)
  await get('quay.io/team/app/manifests/1')
  const [here, notHere] = theirs.layers as [Content, Content]
  await get(`quay.io/team/app/blobs/${here.digest}`)
  await settled(mirror)
  t.equal((await mount('team/four', here.digest, 'quay.io/team/app')).status, 201, 'pulled through here')
  t.equal((await head(`team/four/blobs/${here.digest}`)).status, 200)
  t.equal(hub.log.count('blob'), 0)
  t.ok([201, 202].includes((await mount('team/four', notHere.digest, 'quay.io/team/app')).status))
})

test('the catalog lists what is local and what is cached, a page at a time', async (t) => {
  const { mirror, get, hub, quay } = await startTwoUpstreams(t)
  hub.addImage('library/thing', '1', app)
  quay.addImage('team/tool', '1', app)
  await get('thing/manifests/1')
  await get('quay.io/team/tool/manifests/1')
  await get('quay.io/team/none/manifests/1')
  for (const name of ['team/b', 'a', 'zz']) await pushImage(`${mirror.url}/v2/${name}`, app, '1')
  const all = ['a', 'docker.io/library/thing', 'quay.io/team/tool', 'team/b', 'zz']
  const list = async (query: string) => {
    const page = await get(`_catalog${query}`)
    const { repositories } = JSON.parse(page.body.toString()) as { repositories: string[] }
    return { repositories, link: page.headers['link'] }
  }
  t.same(await list(''), { repositories: all, link: undefined })
  t.same(await list('?n=2'), {
    repositories: all.slice(0, 2),
    link: '</v2/_catalog?last=docker.io%2Flibrary%2Fthing&n=2>; rel="next"',
  })
  t.same(await list('?n=3&last=docker.io%2Flibrary%2Fthing'), { repositories: all.slice(2), link: undefined })
  t.same(await list('?last=b'), { repositories: all.slice(1), link: undefined })
  t.same(await list('?n=0'), { repositories: [], link: undefined })
  const bad = await get('_catalog?n=-1')
  t.same([bad.status, codeOf(bad)], [400, 'PAGINATION_NUMBER_INVALID'])
  t.not(messageOf(bad), '')
})
