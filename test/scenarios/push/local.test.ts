/** What a repository that was pushed here answers; nothing of it is ever asked of an upstream. */
import { test } from 'tap'
import { image, index, layer, type Content, type Image } from '../../support/images.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'

const INDEX = 'application/vnd.oci.image.index.v1+json'

test('manifests by tag and by digest, blobs, and all of it again by HEAD', async (t) => {
  const amd64 = image({ layers: [70_000, 10], seed: 'amd64' })
  const both = index({ images: { amd64, arm64: image({ layers: [20], seed: 'arm64', format: 'docker' }) } })
  const { get, head, asked } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', tags: { latest: both, amd64 } }],
  })
  const same = async (path: string, expected: Content, mediaType: string): Promise<void> => {
    const whole = await get(path)
    t.equal(whole.status, 200, path)
    t.ok(whole.body.equals(expected.bytes))
    const headed = await head(path)
    t.equal(headed.status, 200)
    t.equal(headed.body.length, 0)
    for (const { headers } of [whole, headed]) {
      t.match(headers, {
        'content-type': mediaType,
        'content-length': String(expected.bytes.length),
        'docker-content-digest': expected.digest,
        etag: `"${expected.digest}"`,
        'x-cache': 'local',
      })
    }
  }
  await same('team/app/manifests/latest', both.manifest, INDEX)
  await same('team/app/manifests/amd64', amd64.manifest, amd64.manifest.mediaType)
  for (const manifest of both.manifests) {
    await same(`team/app/manifests/${manifest.digest}`, manifest, manifest.mediaType)
  }
  for (const blob of both.blobs) {
    await same(`team/app/blobs/${blob.digest}`, blob, 'application/octet-stream')
  }
  const part = await get(`team/app/blobs/${amd64.layers[0]!.digest}`, { range: 'bytes=65000-' })
  t.equal(part.status, 206)
  t.ok(part.body.equals(amd64.layers[0]!.bytes.subarray(65_000)))
  const known = { 'if-none-match': `"${both.manifest.digest}"` }
  t.equal((await get('team/app/manifests/latest', known)).status, 304)
  t.equal((await get('team/app/manifests/nothing')).status, 404)
  t.equal(asked(), 0)
})

test('a digest alone opens nothing', async (t) => {
  const theirs = image({ layers: [100], seed: 'theirs' })
  const ours = image({ layers: [100], seed: 'ours' })
  const upload = layer({ size: 100, seed: 'upload' })
  const { get, head, hub, asked } = await startTwoUpstreams(t, {
    local: [
      { name: 'team/one', tags: { '1': theirs }, blobs: [upload] },
      { name: 'team/two', tags: { '1': ours } },
    ],
    config: { local: ['team/**'] },
  })
  const closed = [...theirs.blobs, theirs.manifest, upload]
  for (const { digest } of closed) {
    for (const path of [`team/two/blobs/${digest}`, `team/three/blobs/${digest}`]) {
      const answer = await get(path)
      t.equal(answer.status, 404, path)
      t.equal(codeOf(answer), 'BLOB_UNKNOWN')
      t.equal((await head(path)).status, 404)
      t.equal((await get(path, { 'if-none-match': `"${digest}"` })).status, 404, 'not even that it is here')
      t.equal((await get(path, { range: 'bytes=0-0' })).status, 404)
    }
    t.equal((await get(`team/two/manifests/${digest}`)).status, 404)
    t.equal((await head(`team/two/manifests/${digest}`)).status, 404)
  }
  t.equal(codeOf(await get(`team/two/manifests/${theirs.manifest.digest}`)), 'MANIFEST_UNKNOWN')
  // Uploaded is enough, named is not needed; and a manifest is no blob.
  t.equal((await get(`team/one/blobs/${upload.digest}`)).cache, 'local')
  t.equal((await get(`team/one/manifests/${upload.digest}`)).status, 404)
  t.equal((await get(`team/one/blobs/${theirs.manifest.digest}`)).status, 404)
  t.equal(asked(), 0)

  // A mirrored name does not get at what was pushed, either.
  hub.addImage('library/other', '1', image({ layers: [100], seed: 'other' }))
  for (const { digest } of closed) {
    t.equal((await get(`other/blobs/${digest}`)).status, 404)
    t.equal((await get(`other/manifests/${digest}`)).status, 404)
  }
})

test('a pushed manifest that names a digest does not open it', async (t) => {
  const theirs = image({ layers: [100], seed: 'theirs' })
  const both = index({ images: { amd64: theirs } })
  const { get, head } = await startTwoUpstreams(t, {
    local: [
      { name: 'team/one', tags: { '1': theirs } },
      { name: 'team/two', manifests: [theirs.manifest] },
      { name: 'team/three', manifests: [both.manifest] },
    ],
  })
  t.equal((await get(`team/two/manifests/${theirs.manifest.digest}`)).status, 200)
  for (const { digest } of theirs.blobs) {
    t.equal((await get(`team/two/blobs/${digest}`)).status, 404)
    t.equal((await head(`team/two/blobs/${digest}`)).status, 404)
  }
  t.equal((await get(`team/three/manifests/${both.manifest.digest}`)).status, 200)
  t.equal((await get(`team/three/manifests/${theirs.manifest.digest}`)).status, 404)
  t.equal((await head(`team/three/manifests/${theirs.manifest.digest}`)).status, 404)
})

test('a mirrored manifest that names a pushed blob does not open it', async (t) => {
  const secret = image({ layers: [{ size: 5000, seed: 'secret' }], seed: 'pushed' })
  const bait = image({ layers: [{ size: 5000, seed: 'secret' }], seed: 'bait' })
  const { get, head, hub } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', tags: { '1': secret } }],
    cache: { prefetch: 'off' },
  })
  const { digest } = secret.layers[0]!
  hub.addImage('evil/bait', '1', bait)
  hub.deleteBlob('evil/bait', digest)
  t.equal((await get('evil/bait/manifests/1')).status, 200)
  t.equal((await get(`evil/bait/blobs/${digest}`)).status, 404)
  t.equal((await get(`evil/bait/blobs/${digest}`, { range: 'bytes=0-9' })).status, 404)
  // The descriptor alone answers a HEAD: it tells what the client's own manifest told it.
  t.equal((await head(`evil/bait/blobs/${digest}`)).headers['content-length'], '5000')

  hub.addBlob('evil/bait', secret.layers[0]!)
  t.equal((await get(`evil/bait/blobs/${digest}`)).status, 200, 'once upstream says that it has it, too')
})

test('a mirrored manifest that lies about the size of a pushed blob costs nobody anything', async (t) => {
  const pushed = image({ layers: [{ size: 5000, seed: 'pushed' }], seed: 'pushed' })
  const { digest, mediaType } = pushed.layers[0]!
  const bait = image({ seed: 'bait', extra: { layers: [{ mediaType, digest, size: 4999 }] } })
  const { get, hub } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', tags: { '1': pushed } }],
  })
  hub.addImage('evil/bait', '1', bait)
  t.equal((await get('evil/bait/manifests/1')).status, 200)
  t.not((await get(`evil/bait/blobs/${digest}`)).status, 200)
  const ours = await get(`team/app/blobs/${digest}`)
  t.equal(ours.status, 200)
  t.ok(ours.body.equals(pushed.layers[0]!.bytes))
})

test('tags in pages, in lexical order', async (t) => {
  const one = image({ layers: [10] })
  const tags = Object.fromEntries(['b', 'a', '1.0', 'latest', 'B', '10'].map((tag) => [tag, one]))
  const { get, asked } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', tags, buried: { aa: one } }],
  })
  const sorted = ['1.0', '10', 'B', 'a', 'b', 'latest']
  const all = await get('team/app/tags/list')
  t.equal(all.body.toString(), JSON.stringify({ name: 'team/app', tags: sorted }))
  t.equal(all.headers['link'], undefined)
  t.equal(all.cache, 'local')

  const found: string[][] = []
  for (let path: string | undefined = 'team/app/tags/list?n=4'; path !== undefined;) {
    const page = await get(path)
    found.push((JSON.parse(page.body.toString()) as { tags: string[] }).tags)
    const link = page.headers['link'] as string | undefined
    path = link === undefined ? undefined : /^<\/v2\/(team\/app\/tags\/list\?.*)>; rel="next"$/.exec(link)![1]
  }
  t.same(found, [sorted.slice(0, 4), sorted.slice(4)])

  for (const [query, expected, more] of [
    ['n=0', [], false],
    ['n=6', sorted, false],
    ['n=5', sorted.slice(0, 5), true],
    ['last=a', ['b', 'latest'], false],
    ['last=aa', ['b', 'latest'], false],
    ['n=1&last=2', ['B'], true],
    ['last=zzz', [], false],
    ['n=9007199254740991', sorted, false],
  ] as const) {
    const page = await get(`team/app/tags/list?${query}`)
    t.equal(page.status, 200, query)
    t.same((JSON.parse(page.body.toString()) as { tags: string[] }).tags, expected, query)
    t.equal(page.headers['link'] !== undefined, more, query)
  }
  t.equal((await get('team/app/tags/list?n=-1')).status, 400)
  t.equal(asked(), 0)
})

test('referrers: all, of one type, none', async (t) => {
  const subject = image({ layers: [10], seed: 'subject' })
  const about = (artifactType: string, seed: string): Image =>
    image({ layers: [10], seed, artifactType, subject: subject.manifest, annotations: { seed } })
  const signature = about('application/vnd.example.signature', 'signature')
  const bill = about('application/vnd.example.bill', 'bill')
  const untyped = image({ layers: [10], seed: 'untyped', subject: subject.manifest })
  const { get, asked } = await startTwoUpstreams(t, {
    local: [
      { name: 'team/app', tags: { '1': subject }, images: [signature, bill, untyped] },
      { name: 'team/elsewhere', images: [signature] },
    ],
  })
  const { digest } = subject.manifest
  type Index = { schemaVersion: number; mediaType: string; manifests: Record<string, unknown>[] }
  const listed = async (path: string): Promise<Index> => {
    const answer = await get(path)
    t.equal(answer.status, 200, path)
    t.equal(answer.headers['content-type'], INDEX)
    t.equal(answer.cache, 'local')
    return JSON.parse(answer.body.toString()) as Index
  }
  const all = await listed(`team/app/referrers/${digest}`)
  t.match(all, { schemaVersion: 2, mediaType: INDEX })
  const byDigest = new Map(all.manifests.map((it) => [it['digest'], it]))
  t.equal(byDigest.size, 3)
  t.same(byDigest.get(signature.manifest.digest), {
    mediaType: signature.manifest.mediaType,
    digest: signature.manifest.digest,
    size: signature.manifest.bytes.length,
    artifactType: 'application/vnd.example.signature',
    annotations: { seed: 'signature' },
  })
  t.equal(byDigest.get(untyped.manifest.digest)?.['artifactType'], untyped.config.mediaType)
  t.equal((await get(`team/app/referrers/${digest}`)).headers['oci-filters-applied'], undefined)

  const filtered = `team/app/referrers/${digest}?artifactType=${encodeURIComponent('application/vnd.example.bill')}`
  t.same(
    (await listed(filtered)).manifests.map((it) => it['digest']),
    [bill.manifest.digest],
  )
  t.equal((await get(filtered)).headers['oci-filters-applied'], 'artifactType')
  t.same((await listed(`team/app/referrers/${digest}?artifactType=none%2Fsuch`)).manifests, [])
  t.same((await listed(`team/app/referrers/${bill.manifest.digest}`)).manifests, [])
  t.same(
    (await listed(`team/elsewhere/referrers/${digest}`)).manifests.map((it) => it['digest']),
    [signature.manifest.digest],
    'of this repository only',
  )
  t.equal(asked(), 0)
})
