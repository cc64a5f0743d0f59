/** Registries that answer HEAD badly: GET is asked instead, and HEAD is not tried again for a while. */
import { test } from 'tap'
import { eventually, pull } from '../../support/app.ts'
import { image, index } from '../../support/images.ts'
import { MINUTE, startTagged } from '../../support/tagged.ts'

const MODES = ['405', '401', '403', '404', 'noLength', 'noDigest', 'hang'] as const

for (const headMode of MODES) {
  test(`headMode: ${headMode}: an old tag is revalidated by GET, and by one request from then on`, async (t) => {
    const { upstream, first, get, head, asked, warm, age } = await startTagged(t, {}, { headMode })
    await warm()
    t.same([asked('HEAD'), asked('GET')], [0, 1])
    // What is called absent once may have been pushed since, and what was late once, chance.
    const proofs = headMode === '404' || headMode === 'hang' ? 2 : 1
    for (const round of [1, 2, 3]) {
      age()
      const old = await get()
      t.equal(old.status, 200)
      t.not(old.cache, 'stale')
      t.ok(old.body.equals(first.manifest.bytes))
      t.same([asked('HEAD'), asked('GET')], [Math.min(round, proofs), 1 + round])
      await warm()
    }
    const second = image({ layers: [200], seed: 'second' })
    upstream.moveTag('library/app', '1', second)
    age()
    t.ok((await get()).body.equals(second.manifest.bytes), 'and a move is seen')

    upstream.addImage('library/new', '1', first)
    const told = await head('1', 'library/new')
    t.equal(told.status, 200, 'a client that asks by HEAD is answered, too')
    t.equal(told.headers['docker-content-digest'], first.manifest.digest)
    t.equal(told.headers['content-length'], String(first.manifest.bytes.length))
    t.equal(told.headers['content-type'], first.manifest.mediaType)
    t.equal((await head(second.manifest.digest)).status, 200)
    t.equal(asked('HEAD'), proofs)
  })
}

// 404 is the one thing that a HEAD may say and be believed, where nothing is known.
for (const headMode of MODES.filter((mode) => mode !== '404')) {
  test(`headMode: ${headMode}: a client that asks by HEAD first is answered from a GET`, async (t) => {
    const { first, head, asked } = await startTagged(t, {}, { headMode })
    const told = await head()
    t.equal(told.status, 200)
    t.equal(told.headers['docker-content-digest'], first.manifest.digest)
    t.same([asked('HEAD'), asked('GET')], [1, 1])
  })
}

test('headMode: HEAD is used again when it is answered again', async (t) => {
  const { upstream, clock, get, warm, asked, age } = await startTagged(t)
  await warm()
  const rule = upstream.fault({ kind: 'manifest', method: 'HEAD' }, { status: 404 })
  age()
  t.equal((await get()).status, 200)
  t.equal(asked('HEAD'), 1)
  await warm()
  rule.remove()
  clock.now += 61 * MINUTE
  t.equal((await get()).cache, 'hit')
  t.same([asked('HEAD'), asked('GET')], [2, 2])
})

test('headMode: a registry that refuses GET as well is one that denies', async (t) => {
  const { upstream, get, warm, asked, age, clock } = await startTagged(t)
  await warm()
  const rule = upstream.fault({ kind: 'manifest' }, { status: 403 })
  age()
  t.equal((await get()).cache, 'stale')
  const heads = asked('HEAD')
  rule.remove()
  clock.now += 10_001
  t.equal((await get()).cache, 'hit')
  t.equal(asked('HEAD'), heads + 1, 'and HEAD is still trusted')
})

test('blobHead401: never fails a pull, and HEAD is not tried again for a while', async (t) => {
  const { upstream, mirror, first, get, blob } = await startTagged(t, {}, { blobHead401: true })
  t.equal((await get()).status, 200)
  for (const { digest, bytes } of first.blobs) t.ok((await blob(digest)).body.equals(bytes))
  const asked = (method: string): number => upstream.log.count({ kind: 'blob', method })
  t.equal(asked('HEAD'), 0, 'a pull needs none')

  // What no manifest names has to be asked for, and so has what lies here under another name.
  const loose = image({ layers: [5000], seed: 'loose' }).layers[0]!
  upstream.addBlob('library/app', loose)
  upstream.addBlob('library/other', first.layers[0]!)
  const url = (repo: string, digest: string): string => `${mirror.url}/v2/library/${repo}/blobs/${digest}`
  const told = await pull(url('app', loose.digest), {}, 'HEAD')
  t.same([told.status, told.headers['content-length']], [200, '5000'])
  t.equal(asked('HEAD'), 1)
  await eventually('it is a hit elsewhere, too', async () => {
    const answer = await pull(url('other', first.layers[0]!.digest))
    return answer.status === 200 && answer.cache === 'hit'
  })
  t.equal((await pull(url('other', loose.digest), {}, 'HEAD')).status, 404)
  t.equal(asked('HEAD'), 1)
})

test('a wrong type in an answer to HEAD is repeated only while nothing better is known', async (t) => {
  const { upstream, first, get, head, age, warm, written } = await startTagged(t)
  upstream.fault(
    { kind: 'manifest', method: 'HEAD' },
    { contentType: 'application/vnd.docker.distribution.manifest.v2+json' },
  )
  const typeOf = async (reference?: string): Promise<unknown> =>
    (await head(reference)).headers['content-type']
  await head()
  await written()
  t.equal((await get(first.manifest.digest)).status, 200)
  t.equal(await typeOf(), first.manifest.mediaType, 'as soon as it was read, by whatever name')
  t.equal(await typeOf(first.manifest.digest), first.manifest.mediaType)
  await warm()
  t.equal(await typeOf(), first.manifest.mediaType)
  age()
  t.equal(await typeOf(), first.manifest.mediaType, 'also when it is asked about again')
  const second = image({ layers: [200], seed: 'second' })
  upstream.moveTag('library/app', '1', second)
  age()
  t.equal((await get()).status, 200)
  t.equal(await typeOf(), second.manifest.mediaType, 'before the tag is written down')
  upstream.moveTag('library/app', '1', first)
  age()
  t.equal(await typeOf(), first.manifest.mediaType, 'and when it moves to what is here')
})

test('a HEAD of what is not here is no hit, however much is known of it', async (t) => {
  const { upstream, mirror, head, get } = await startTagged(t, { cache: { prefetch: 'off' } })
  const child = image({ layers: [5000], seed: 'child' })
  const both = index({ images: { amd64: child } })
  upstream.addImage('library/app', 'both', both)
  const ask = async (path: string): Promise<string | undefined> =>
    (await pull(`${mirror.url}/v2/library/app/${path}`, {}, 'HEAD')).cache
  for (const round of [1, 2, 3]) t.equal((await head('both')).cache, 'miss', `the tag, round ${round}`)
  for (const round of [1, 2])
    t.equal((await head(both.manifest.digest)).cache, 'miss', `the digest, round ${round}`)
  t.equal((await get('both')).status, 200)
  await eventually('it is a hit', async () => (await head('both')).cache === 'hit')
  for (const round of [1, 2])
    t.equal((await head(child.manifest.digest)).cache, 'miss', `a child, round ${round}`)
  t.equal((await get(child.manifest.digest)).status, 200)
  t.equal((await head(child.manifest.digest)).cache, 'hit')
  const { digest } = child.layers[0]!
  for (const round of [1, 2]) t.equal(await ask(`blobs/${digest}`), 'miss', `a layer, round ${round}`)
  t.equal((await pull(`${mirror.url}/v2/library/app/blobs/${digest}`)).status, 200)
  await eventually('it is a hit', async () => (await ask(`blobs/${digest}`)) === 'hit')
  upstream.moveTag('library/app', 'both', image({ seed: 'moved' }))
})
