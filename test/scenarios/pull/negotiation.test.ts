/** Types, `Accept` and conditions: what upstream makes of them, and that it makes no difference to clients. */
import { test } from 'tap'
import { eventually, pull } from '../../support/app.ts'
import { image, index, type Image } from '../../support/images.ts'
import { isConsistent, startTagged } from '../../support/tagged.ts'

const second = image({ layers: [200], seed: 'second' })
const both = index({ images: { arm64: second, amd64: image({ layers: [300], seed: 'amd64' }) } })

/** One of each kind, and an OCI one that does not say what it is. */
const KINDS: Readonly<Record<string, Image>> = {
  'oci manifest': image({ layers: [10], seed: 'oci' }),
  'docker manifest': image({ layers: [10], seed: 'docker', format: 'docker' }),
  'oci index': index({ images: { amd64: image({ layers: [10], seed: 'oci' }) } }),
  'docker list': index({
    images: { amd64: image({ layers: [10], seed: 'docker', format: 'docker' }) },
    format: 'docker',
  }),
  'oci manifest without mediaType': image({ layers: [10], seed: 'untyped', extra: { mediaType: undefined } }),
  'oci index without mediaType': index({
    images: { amd64: image({ layers: [10], seed: 'oci' }) },
    extra: { mediaType: undefined },
  }),
}

for (const contentTypeMode of ['exact', 'charset', 'octet', 'json', 'textPlain', 'missing'] as const) {
  test(`contentTypeMode: ${contentTypeMode}: clients get the exact type, without parameters`, async (t) => {
    const { upstream, get, head, age } = await startTagged(t, {}, { contentTypeMode })
    for (const [kind, { manifest, ...rest }] of Object.entries(KINDS)) {
      const repo = `library/${kind.replaceAll(' ', '-').toLowerCase()}`
      const { mediaType, bytes, digest } = manifest
      upstream.addImage(repo, '1', { manifest, ...rest })
      upstream.addImage(`${repo}-2`, '1', { manifest, ...rest })
      const told = await head('1', `${repo}-2`)
      t.same([told.status, told.headers['content-type']], [200, mediaType], `${kind}: HEAD, cold`)
      for (const reference of ['1', digest, '1']) {
        const answer = await get(reference, repo)
        t.equal(answer.status, 200)
        t.equal(answer.headers['content-type'], mediaType, `${kind}: GET ${reference}`)
        t.ok(answer.body.equals(bytes))
        t.equal((await head(reference, repo)).headers['content-type'], mediaType, `${kind}: HEAD`)
      }
      await eventually('it is kept', async () => (await get('1', repo)).cache === 'hit')
      age()
      const old = await get('1', repo)
      t.same([old.status, old.headers['content-type']], [200, mediaType], `${kind}: old`)
      t.not(old.cache, 'stale')
    }
  })
}

test('contentTypeMode: a type that says nothing costs an old tag one HEAD all the same', async (t) => {
  const { get, asked, age, warm } = await startTagged(t, {}, { contentTypeMode: 'octet' })
  await warm()
  age()
  t.equal((await get()).cache, 'hit')
  t.same([asked('HEAD'), asked('GET')], [1, 1])
})

for (const etag of ['weakEtag', 'noEtag', 'etag304'] as const) {
  test(`${etag}: our own is strong and is the digest, and nobody is asked on a condition`, async (t) => {
    const { upstream, first, url, get, age, warm } = await startTagged(t, {}, { [etag]: true })
    await warm()
    const strong = `"${first.manifest.digest}"`
    t.equal((await get()).headers['etag'], strong)
    for (const round of ['young', 'old']) {
      for (const given of [strong, `W/${strong}`, first.manifest.digest, `"x", ${strong}`, '*']) {
        const answer = await pull(url(), { 'if-none-match': given })
        t.equal(answer.status, 304, `${round}: ${given}`)
        t.equal(answer.headers['etag'], strong)
        t.equal(answer.body.length, 0)
      }
      t.equal((await pull(url(), { 'if-none-match': '"x"' })).status, 200)
      age()
    }
    t.notOk(upstream.log.entries.some(({ headers }) => headers['if-none-match'] ?? headers['if-range']))
  })
}

test('etag304: a 304 that nobody asked for is no answer', async (t) => {
  const { upstream, get, age, warm } = await startTagged(t)
  await warm()
  age()
  upstream.fault({ kind: 'manifest' }, { status: 304, body: 'empty' })
  t.equal((await get()).cache, 'stale')
  t.equal((await get('2')).status, 503)
})

const NARROW: readonly (string | undefined)[] = [
  undefined,
  '*/*',
  'application/json',
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
  'application/vnd.oci.image.manifest.v1+json;q=0.5, application/vnd.docker.distribution.manifest.list.v2+json',
]

for (const [toggle, options] of [
  ['acceptStrict', { acceptStrict: true }],
  ['acceptConverts: schema1', { acceptConverts: 'schema1' }],
  ['acceptConverts: amd64Child', { acceptConverts: 'amd64Child' }],
] as const) {
  test(`${toggle}: whatever a client accepts, upstream is asked for everything, and all get the same`, async (t) => {
    const { upstream, mirror, age } = await startTagged(t, {}, options)
    upstream.addImage('library/both', '1', both)
    upstream.addImage('library/both', '2', both)
    const base = `${mirror.url}/v2/library/both/manifests`
    for (const [at, accept] of NARROW.entries()) {
      for (const reference of [at % 2 === 0 ? '1' : '2', both.manifest.digest]) {
        const answer = await pull(`${base}/${reference}`, accept === undefined ? {} : { accept })
        t.ok(isConsistent(answer), `${accept ?? 'nothing'} ${reference}`)
        t.ok(answer.body.equals(both.manifest.bytes))
        t.equal(answer.headers['content-type'], both.manifest.mediaType)
      }
      age()
    }
    const child = both.manifests[0]!
    const named = await pull(`${base}/${child.digest}`, { accept: 'text/plain' })
    t.ok(named.body.equals(child.bytes), 'by digest nothing is negotiated')
    t.equal(upstream.log.count({ kind: 'manifest', status: 404 }), 0)
  })
}

test('shuffleConnectionClose: order, splitting and connections of a client make no difference', async (t) => {
  const { upstream, url, first } = await startTagged(t)
  const types = [first.manifest.mediaType, both.manifest.mediaType, 'application/json', '*/*']
  for (let turn = 0; turn < 20; turn += 1) {
    const shuffled = types.toSorted(() => (turn % 3) - 1)
    const accept = turn % 2 === 0 ? shuffled.join(', ') : shuffled
    const response = await fetch(url(), {
      headers: Array.isArray(accept) ? accept.map((it) => ['accept', it]) : { accept },
    })
    t.ok(Buffer.from(await response.arrayBuffer()).equals(first.manifest.bytes))
    const closing = await pull(url(), { connection: 'close', accept: types.toReversed().join(',') })
    t.ok(closing.body.equals(first.manifest.bytes))
  }
  t.equal(upstream.log.count({ kind: 'manifest' }), 1)
})
