/** Manifests and names that are odd: what clients get is exact, or an honest error. */
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { eventually, pull, settled } from '../../support/app.ts'
import { ODD_HEADERS } from '../../support/faults/content.ts'
import { content, image, schema1, type Content } from '../../support/images.ts'
import { isConsistent, REPO, startTagged } from '../../support/tagged.ts'
import { codeOf } from '../../support/two-upstreams.ts'

const second = image({ layers: [200], seed: 'second' })

for (const noDigestHeader of ['get', 'head', 'both'] as const) {
  test(`noDigestHeader: ${noDigestHeader}: the digest is computed`, async (t) => {
    const { upstream, get, head, age, warm } = await startTagged(t, {}, { noDigestHeader })
    t.ok(isConsistent(await get()))
    await warm()
    age()
    const old = await get()
    t.ok(isConsistent(old))
    t.not(old.cache, 'stale')
    upstream.moveTag(REPO, '1', second)
    await warm()
    age()
    t.ok((await get()).body.equals(second.manifest.bytes))
    t.equal((await head()).headers['docker-content-digest'], second.manifest.digest)
  })
}

test('wrongDigestHeader: what contradicts its bytes is not kept, and what is cached answers', async (t) => {
  const { upstream, first, get, age, warm, mirror } = await startTagged(t)
  await warm()
  upstream.addImage(REPO, undefined, second)
  upstream.set({ wrongDigestHeader: true })
  age()
  const old = await get()
  t.match(old, { status: 200, cache: 'stale' })
  t.ok(old.body.equals(first.manifest.bytes))
  for (const reference of ['2', second.manifest.digest]) {
    upstream.addImage(REPO, '2', second)
    const refused = await get(reference)
    t.equal(refused.status, 503)
    t.equal(codeOf(refused), 'UNAVAILABLE')
  }
  const metrics = (await pull(`${mirror.url}/metrics`)).body.toString()
  t.match(metrics, /entrepot_integrity_failures_total\{upstream="docker\.io"\} [1-9]/)
  upstream.set({ wrongDigestHeader: false })
  await eventually('it answers again', async () => {
    age()
    return (await get()).cache === 'hit'
  })
})

test('otherAlgoHeader: a header of another algorithm contradicts nothing', async (t) => {
  const { first, get, head, age, warm } = await startTagged(t, {}, { otherAlgoHeader: true })
  const byDigest = await get(first.manifest.digest)
  t.equal(byDigest.headers['docker-content-digest'], first.manifest.digest)
  t.ok(byDigest.body.equals(first.manifest.bytes))
  await warm()
  for (let round = 0; round < 3; round += 1) {
    age()
    const old = await get()
    t.equal(old.status, 200)
    t.not(old.cache, 'stale')
    t.ok(old.body.equals(first.manifest.bytes))
    const named = String(old.headers['docker-content-digest'])
    t.equal(named, digestOf(old.body, named.startsWith('sha512') ? 'sha512' : 'sha256'))
    t.equal((await head(named)).status, 200)
  }
})

test('caseVariants: names and digests in upper case are refused here, tags are what they are', async (t) => {
  const { upstream, mirror, first, get, asked } = await startTagged(t)
  upstream.addImage(REPO, 'Latest', first)
  upstream.addImage(REPO, 'latest', second)
  t.ok((await get('Latest')).body.equals(first.manifest.bytes))
  t.ok((await get('latest')).body.equals(second.manifest.bytes))
  t.equal((await get('LATEST')).status, 404)
  const before = asked('GET')
  for (const [path, code] of [
    ['library/App/manifests/1', 'NAME_INVALID'],
    ['Library/app/manifests/1', 'NAME_INVALID'],
    [`${REPO}/manifests/${first.manifest.digest.toUpperCase()}`, 'DIGEST_INVALID'],
    [`${REPO}/manifests/sha256:${first.manifest.digest.slice(7).toUpperCase()}`, 'DIGEST_INVALID'],
    [`${REPO}/blobs/SHA256:${first.config.digest.slice(7)}`, 'DIGEST_INVALID'],
  ] as const) {
    const answer = await pull(`${mirror.url}/v2/${path}`)
    t.equal(answer.status, 400, path)
    t.equal(codeOf(answer), code, path)
  }
  t.equal(asked('GET'), before)
})

test('libraryNormalisation: with and without library/ a name is one thing, fetched once', async (t) => {
  const { upstream, mirror, first } = await startTagged(t)
  for (const name of ['app', 'library/app', 'docker.io/app', 'index.docker.io/library/app']) {
    for (const path of [
      'manifests/1',
      `manifests/${first.manifest.digest}`,
      `blobs/${first.config.digest}`,
    ]) {
      await eventually('it is answered', async () => {
        const { status, cache } = await pull(`${mirror.url}/v2/${name}/${path}`)
        return status === 200 && cache === 'hit'
      })
    }
  }
  t.equal(upstream.log.count({ kind: 'manifest' }), 1)
  t.equal(upstream.log.count({ ref: first.config.digest }), 1)
  t.ok(upstream.log.entries.every(({ repo }) => repo === REPO))
})

test('nestedNamesRejected: a name that upstream has no room for is an honest error', async (t) => {
  const { get, upstream } = await startTagged(t, {}, { nestedNamesRejected: true })
  t.equal((await get()).status, 200)
  const nested = await get('1', 'team/group/app')
  t.equal(nested.status, 503)
  t.equal(codeOf(nested), 'UNAVAILABLE')
  t.equal(upstream.log.entries.at(-1)?.repo, 'team/group/app', 'as it was asked for')
  t.equal((await get('1')).status, 200)
})

test('sha512: manifests and blobs are verified, kept and served by it', async (t) => {
  const { upstream, get, blob } = await startTagged(t)
  const long = image({ layers: [{ size: 5000, algorithm: 'sha512' }], seed: 'long', algorithm: 'sha512' })
  upstream.addImage(REPO, '512', long)
  t.match(long.manifest.digest, /^sha512:/)
  for (const reference of ['512', long.manifest.digest]) {
    const answer = await get(reference)
    t.equal(answer.headers['docker-content-digest'], long.manifest.digest)
    t.ok(answer.body.equals(long.manifest.bytes))
  }
  for (const { digest, bytes } of long.blobs) {
    await eventually('it is here', async () => (await blob(digest)).cache === 'hit')
    t.ok((await blob(digest)).body.equals(bytes))
  }
  const bad = image({ layers: [{ size: 6000, algorithm: 'sha512' }], seed: 'bad' })
  upstream.addImage(REPO, 'bad', bad)
  upstream.fault({ ref: bad.layers[0]!.digest }, { corrupt: 'tail' })
  await get('bad')
  t.equal((await blob(bad.layers[0]!.digest)).status, 502)
})

test('unknownAlgo: what nobody could verify is refused, and a manifest that names it passes', async (t) => {
  const { upstream, mirror, get, first, blob } = await startTagged(t)
  const digest = `blake3:${'0'.repeat(64)}`
  const { config, layers } = JSON.parse(first.manifest.bytes.toString()) as {
    config: object
    layers: object[]
  }
  const mediaType = first.manifest.mediaType
  const strange = content(
    mediaType,
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType,
        config,
        layers: [...layers, { mediaType, digest, size: 7 }],
      }),
    ),
  )
  upstream.holdings.addManifest(REPO, 'strange', strange)
  t.ok((await get('strange')).body.equals(strange.bytes))
  t.equal((await blob(first.config.digest)).status, 200)
  await settled(mirror)
  const asked = upstream.log.count()
  for (const path of [`blobs/${digest}`, `manifests/${digest}`, `referrers/${digest}`]) {
    for (const method of ['GET', 'HEAD'] as const) {
      const answer = await pull(`${mirror.url}/v2/${REPO}/${path}`, {}, method)
      t.equal(answer.status, 400, `${method} ${path}`)
      if (method === 'GET') t.equal(codeOf(answer), 'DIGEST_INVALID')
    }
  }
  t.equal(upstream.log.count(), asked)
})

test('schema1: what its registry calls by its own digest passes untouched, and is kept as what it is', async (t) => {
  const { upstream, get, head, age } = await startTagged(t)
  const old = schema1({ plain: true })
  upstream.holdings.addManifest(REPO, 'old', old)
  for (const round of [1, 2]) {
    for (const answer of [await get('old'), await get(old.digest)]) {
      t.ok(isConsistent(answer), `round ${round}`)
      t.ok(answer.body.equals(old.bytes))
      t.equal(answer.headers['content-type'], old.mediaType)
    }
    t.equal((await head('old')).headers['content-type'], old.mediaType)
    age()
  }
})

test('schema1Only: what its registry calls by the digest of something else is refused, and never kept', async (t) => {
  const { upstream, get, head, warm, age, first } = await startTagged(t)
  await warm()
  const old = schema1()
  upstream.holdings.addManifest(REPO, 'old', old)
  for (const reference of ['old', old.digest, 'old']) {
    const refused = await get(reference)
    t.equal(refused.status, 503)
    t.equal(codeOf(refused), 'UNAVAILABLE')
  }
  upstream.holdings.addManifest(REPO, '1', old)
  age()
  const stale = await get()
  t.match(stale, { status: 200, cache: 'stale' })
  t.ok(stale.body.equals(first.manifest.bytes))
  t.equal((await head()).status, 200)
})

test('warningHeader, setCookie, altSvc, xRegistrySupportsSignatures: clients get what we mean to send', async (t) => {
  const { upstream, mirror, first, get, head, blob } = await startTagged(t)
  upstream.fault({}, { headers: ODD_HEADERS })
  const { digest } = first.layers[0]!
  const answers = [
    await get(),
    await get(),
    await head(),
    await get('nothing'),
    await blob(digest),
    await blob(digestOf(Buffer.from('nothing'))),
    await pull(`${mirror.url}/v2/${REPO}/blobs/${digest}`, { range: 'bytes=1-2' }),
    await pull(`${mirror.url}/v2/${REPO}/tags/list`),
    await pull(`${mirror.url}/v2/${REPO}/referrers/${first.manifest.digest}`),
  ]
  t.equal(answers[0]?.headers['warning'], ODD_HEADERS['warning'], 'what it warns of is for people')
  for (const [position, { headers }] of answers.entries()) {
    // The second may have joined the first.
    const names = Object.keys(ODD_HEADERS).filter((name) => name !== 'warning' || position > 1)
    for (const name of names) t.equal(headers[name], undefined, name)
  }
})

test('dupLayers: a layer that a manifest names twice is fetched once', async (t) => {
  const { upstream, get, blob } = await startTagged(t)
  const twice = image({ layers: [{ size: 9000, seed: 'same' }, { size: 9000, seed: 'same' }, 100] })
  upstream.addImage(REPO, 'twice', twice)
  t.ok((await get('twice')).body.equals(twice.manifest.bytes))
  const [layer] = twice.layers as [Content]
  const answers = await Promise.all([blob(layer.digest), blob(layer.digest), blob(twice.layers[2]!.digest)])
  t.same(
    answers.map(({ status }) => status),
    [200, 200, 200],
  )
  t.equal(upstream.log.count({ kind: 'blob', ref: layer.digest }), 1)
})
