/** What belongs to one upstream stays with it: contents, globs, how long its tags are believed. */
import { test } from 'tap'
import { eventually, heard, settled } from '../../support/app.ts'
import { image, index } from '../../support/images.ts'
import { codeOf, messageOf, startTwoUpstreams } from '../../support/two-upstreams.ts'

const small = (seed: string) => image({ layers: [100], seed })

test('the same path on two upstreams never collides', async (t) => {
  const { hub, quay, get, head, mirror } = await startTwoUpstreams(t)
  const [ours, theirs] = [small('hub'), small('quay')]
  hub.addImage('team/app', '1', ours)
  quay.addImage('team/app', '1', theirs)
  for (const round of ['cold', 'hot']) {
    // At the same time, so that whatever is shared while it is under way would show.
    const [one, two, three, four] = await Promise.all([
      get('team/app/manifests/1'),
      get('quay.io/team/app/manifests/1'),
      head('docker.io/team/app/manifests/1'),
      head('team/app/manifests/1?ns=quay.io'),
    ])
    t.ok(one.body.equals(ours.manifest.bytes), round)
    t.ok(two.body.equals(theirs.manifest.bytes), round)
    t.equal(three.headers['docker-content-digest'], ours.manifest.digest)
    t.equal(four.headers['docker-content-digest'], theirs.manifest.digest)
    t.equal((await get(`team/app/blobs/${ours.layers[0]!.digest}`)).status, 200)
    t.equal((await get(`quay.io/team/app/blobs/${theirs.layers[0]!.digest}`)).status, 200)
    t.equal((await get(`quay.io/team/app/blobs/${ours.layers[0]!.digest}`)).status, 404)
    t.equal((await get(`quay.io/team/app/manifests/${ours.manifest.digest}`)).status, 404)
    t.equal((await get(`team/app/manifests/${theirs.manifest.digest}`)).status, 404)
    await settled(mirror)
    await eventually('both are kept', async () => {
      const again = await Promise.all([get('team/app/manifests/1'), get('quay.io/team/app/manifests/1')])
      return again.every(({ cache }) => cache === 'hit')
    })
  }
  // What one denies or lacks says nothing of the other.
  quay.deleteRepository('team/app')
  t.equal((await get('quay.io/team/app/manifests/2')).status, 404)
  hub.addImage('team/app', '2', ours)
  t.equal((await get('team/app/manifests/2')).status, 200)
})

test('one upstream that is down leaves the other alone', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const { hub, quay, mirror, get } = await startTwoUpstreams(t, { now: () => clock.now, budgetMs: 2000 })
  hub.addImage('team/app', '1', small('hub'))
  quay.addImage('team/app', '1', small('quay'))
  await eventually('it is kept', async () => (await get('quay.io/team/app/manifests/1')).cache === 'hit')
  await heard(mirror)
  await quay.stop()
  clock.now += 61_000
  t.equal((await get('quay.io/team/app/manifests/1')).cache, 'stale')
  t.equal((await get('quay.io/team/other/manifests/1')).status, 503)
  t.equal((await get('team/app/manifests/1')).cache, 'miss')
})

test('allow and deny of an upstream are over its own names', async (t) => {
  const { hub, quay, get, head, asked } = await startTwoUpstreams(t, {
    hub: { allow: ['library/**', 'team/*'], deny: ['library/secret', 'team/x-*'] },
    quay: { deny: ['**'] },
    cache: { prefetch: 'off' },
  })
  for (const name of ['library/app', 'library/secret', 'team/app', 'team/x-1', 'team/a/b', 'other/app']) {
    hub.addImage(name, '1', small(name))
    quay.addImage(name, '1', small(name))
  }
  for (const path of ['app/manifests/1', 'docker.io/app/manifests/1', 'team/app/manifests/1?ns=docker.io']) {
    t.equal((await get(path)).status, 200, path)
  }
  const before = asked()
  for (const [name, query, push] of [
    ['secret', '', 'may begin'],
    ['library/secret', ''],
    ['docker.io/secret', ''],
    ['secret', '?ns=docker.io'],
    ['team/x-1', '', 'may begin'],
    ['team/a/b', '', 'may begin'],
    ['other/app', '', 'may begin'],
    ['quay.io/team/app', ''],
    ['team/app', '?ns=quay.io'],
  ] as const) {
    const answer = await get(`${name}/manifests/1${query}`)
    t.equal(answer.status, 403, `${name}${query}`)
    t.equal(codeOf(answer), 'DENIED')
    t.match(messageOf(answer), /configuration of (docker|quay)\.io/)
    t.equal((await get(`${name}/tags/list${query}`)).status, 403)
    t.equal((await get(`${name}/blobs/${small('x').layers[0]!.digest}${query}`)).status, 403)
    t.equal((await get(`${name}/referrers/${small('x').manifest.digest}${query}`)).status, 403)
    const told = push === undefined ? 403 : 404
    t.equal((await head(`${name}/manifests/1${query}`)).status, told, `HEAD ${name}${query}`)
  }
  t.equal(asked(), before)
})

test('an empty list of what is allowed allows nothing', async (t) => {
  const { get, asked } = await startTwoUpstreams(t, { hub: { allow: [] } })
  t.equal((await get('app/manifests/1')).status, 403)
  t.equal(asked(), 0)
})

test('a tag is believed for as long as its upstream says', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const { hub, quay, mirror, get } = await startTwoUpstreams(t, {
    now: () => clock.now,
    cache: { tagTtl: '10m', prefetch: 'off' },
    quay: { tagTtl: '1h' },
  })
  hub.addImage('team/app', '1', small('hub'))
  quay.addImage('team/app', '1', small('quay'))
  for (const path of ['team/app/manifests/1', 'quay.io/team/app/manifests/1']) {
    await eventually('it is kept', async () => (await get(path)).cache === 'hit')
  }
  await heard(mirror)
  hub.moveTag('team/app', '1', small('hub, moved'))
  quay.moveTag('team/app', '1', small('quay, moved'))
  const seen = async (path: string, seed: string): Promise<boolean> =>
    (await get(path)).body.equals(small(seed).manifest.bytes)

  clock.now += 10 * 60_000 - 1
  t.ok(await seen('team/app/manifests/1', 'hub'))
  clock.now += 2
  t.ok(await seen('team/app/manifests/1', 'hub, moved'))
  t.ok(await seen('quay.io/team/app/manifests/1', 'quay'))
  t.equal(quay.log.count(), 1)
  clock.now += 50 * 60_000
  t.ok(await seen('quay.io/team/app/manifests/1', 'quay, moved'))
})

test('sharedBlobAcrossUpstreams: bytes that one delivered are not the other’s until it says so', async (t) => {
  const shared = { size: 200_000, seed: 'shared' }
  const one = image({ layers: [shared], seed: 'one' })
  const two = image({ layers: [shared], seed: 'two' })
  const { digest } = one.layers[0]!
  const { hub, quay, get, mirror } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  hub.addImage('team/app', '1', one)
  quay.addImage('team/app', '1', two)
  quay.deleteBlob('team/app', digest)
  t.equal((await get(`team/app/blobs/${digest}`)).status, 200)
  await settled(mirror)

  // Named by a manifest there, delivered by nobody there.
  t.equal((await get('quay.io/team/app/manifests/1')).status, 200)
  t.equal((await get(`quay.io/team/app/blobs/${digest}`)).status, 404)
  t.ok(quay.log.count({ kind: 'blob', ref: digest }) > 0, 'it was asked')

  quay.addBlob('team/app', one.layers[0]!)
  const confirmed = await get(`quay.io/team/app/blobs/${digest}`)
  t.equal(confirmed.cache, 'hit')
  t.ok(confirmed.body.equals(one.layers[0]!.bytes))
  t.equal(
    quay.log.bytesSent({ kind: 'blob', ref: digest }),
    quay.log.bytesSent({ kind: 'blob', status: 404 }),
  )
  const before = quay.log.count()
  t.equal((await get(`quay.io/team/app/blobs/${digest}`)).cache, 'hit')
  t.equal(quay.log.count(), before, 'it is asked once')
})

test('the same bytes are served to each as what its upstream called them', async (t) => {
  const app = image({ seed: 'untyped', extra: { mediaType: undefined } })
  const { hub, quay, get, head } = await startTwoUpstreams(t)
  const types = {
    'docker.io': 'application/vnd.oci.image.manifest.v1+json',
    'quay.io': 'application/vnd.docker.distribution.manifest.v2+json',
  }
  for (const [upstream, contentType] of [
    [hub, types['docker.io']],
    [quay, types['quay.io']],
  ] as const) {
    upstream.addImage('team/app', '1', app)
    upstream.fault({ kind: 'manifest' }, { contentType })
  }
  for (const round of ['cold', 'hot']) {
    for (const [key, contentType] of Object.entries(types)) {
      for (const reference of [app.manifest.digest, '1']) {
        const path = `${key}/team/app/manifests/${reference}`
        t.equal((await get(path)).headers['content-type'], contentType, `${round} ${path}`)
        await eventually('it is kept', async () => (await get(path)).cache === 'hit')
        t.equal((await get(path)).headers['content-type'], contentType, `${round} ${path}`)
        t.equal((await head(path)).headers['content-type'], contentType, `${round} ${path}`)
      }
    }
  }
})

test('the same digest cold on both upstreams at once is delivered by each', async (t) => {
  const shared = { size: 2_000_000, seed: 'shared' }
  const { hub, quay, get, mirror } = await startTwoUpstreams(t, { simulated: { bytesPerSecond: 8_000_000 } })
  const app = image({ layers: [shared] })
  hub.addImage('team/app', '1', app)
  quay.addImage('team/app', '1', app)
  const { digest, bytes } = app.layers[0]!
  const pulled = await Promise.all([get(`team/app/blobs/${digest}`), get(`quay.io/team/app/blobs/${digest}`)])
  t.ok(pulled.every(({ status, body }) => status === 200 && body.equals(bytes)))
  t.equal(hub.log.count({ kind: 'blob', method: 'GET' }), 1)
  t.equal(quay.log.count({ kind: 'blob', method: 'GET' }), 1)
  await settled(mirror)
  await hub.stop()
  await quay.stop()
  t.equal((await get(`team/app/blobs/${digest}`)).cache, 'hit')
  t.equal((await get(`quay.io/team/app/blobs/${digest}`)).cache, 'hit')
})

test('a manifest that one upstream delivered is asked for at the other', async (t) => {
  const child = small('child')
  const both = index({ images: { amd64: child } })
  const clock = { now: 1_700_000_000_000 }
  const { hub, quay, get, head } = await startTwoUpstreams(t, { now: () => clock.now })
  hub.addImage('team/app', '1', both)
  quay.addImage('team/other', '1', small('other'))
  for (const { digest } of both.manifests) {
    const path = `team/app/manifests/${digest}`
    await eventually('it is kept', async () => (await get(path)).cache === 'hit')
  }
  for (const { digest } of both.manifests) {
    t.equal((await get(`quay.io/team/other/manifests/${digest}`)).status, 404)
    t.equal((await head(`quay.io/team/other/manifests/${digest}`)).status, 404)
    t.ok(quay.log.count({ kind: 'manifest', ref: digest }) > 0)
  }
  await quay.stop()
  clock.now += 30_001
  t.equal((await get(`quay.io/team/other/manifests/${child.manifest.digest}`)).status, 503)
})
