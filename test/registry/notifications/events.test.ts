/** What is told of, and what of it. */
import { hostname } from 'node:os'
import { test, type Test } from 'tap'
import { pull, simulate, startMirror, type Mirror } from '../../support/app.ts'
import { image, index, layer, type Image } from '../../support/images.ts'
import { Listener, type Told } from '../../support/listener.ts'
import { pushBlob, pushImage, pushManifest, send } from '../../support/push.ts'

interface Scene {
  readonly listener: Listener
  readonly mirror: Mirror
  readonly hosted: Image
  /** What was told since the last look, when `count` of it is there. */
  readonly next: (count: number) => Promise<Told[]>
}

async function start(t: Test, settings: Record<string, unknown> = {}): Promise<Scene> {
  const listener = await Listener.start(t)
  const upstream = await simulate(t)
  const hosted = image({ layers: [100], seed: 'hosted' })
  upstream.addImage('library/hosted', '1', hosted)
  const mirror = await startMirror(t, upstream, {
    cache: { prefetch: 'off' },
    config: { notifications: [{ url: `${listener.url}/hook?key=1`, ...settings }] },
  })
  let seen = 0
  const next = async (count: number): Promise<Told[]> => {
    await listener.until(() => listener.taken.length >= seen + count)
    const events = listener.taken.slice(seen)
    seen = listener.taken.length
    return events
  }
  return { listener, mirror, hosted, next }
}

test('a push is told as distribution tells it', async (t) => {
  const { listener, mirror, next } = await start(t, {
    headers: { Authorization: 'Bearer abc', 'X-Two': ['a', 'b'] },
  })
  const app = image({ layers: [100, 200], seed: 'app' })
  const answer = await pushImage(`${mirror.url}/v2/team/app`, app, 'v1')
  t.equal(answer.status, 201)
  const events = await next(app.blobs.length + 1)
  t.same(
    events.map(({ action, target }) => [action, target.digest, target.tag]),
    [...app.blobs.map(({ digest }) => ['push', digest, undefined]), ['push', app.manifest.digest, 'v1']],
    'in the order in which it was done',
  )
  const { host } = new URL(mirror.url)
  const [blob] = app.blobs
  const first = events[0]
  t.same(first?.target, {
    mediaType: 'application/octet-stream',
    digest: blob?.digest,
    size: blob?.bytes.length,
    length: blob?.bytes.length,
    repository: 'team/app',
    url: `${mirror.url}/v2/team/app/blobs/${blob?.digest}`,
  })
  const last = events.at(-1)
  t.same(last?.target, {
    mediaType: app.manifest.mediaType,
    digest: app.manifest.digest,
    size: app.manifest.bytes.length,
    length: app.manifest.bytes.length,
    repository: 'team/app',
    url: `${mirror.url}/v2/team/app/manifests/${app.manifest.digest}`,
    tag: 'v1',
    references: [app.config, ...app.layers].map((it) => ({
      mediaType: it.mediaType,
      digest: it.digest,
      size: it.bytes.length,
    })),
  })
  t.match(last?.request, { id: answer.headers['x-request-id'], host, method: 'PUT' })
  t.match(last?.request['addr'], /^127\.0\.0\.1:\d+$/)
  t.same(last?.actor, {})
  t.match(last?.source['addr'], /:\d+$/)
  t.ok(last?.source['addr']?.toString().endsWith(`:${new URL(mirror.url).port}`))
  t.equal(last?.source['instanceID'], first?.source['instanceID'])
  t.match(last?.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
  t.equal(new Set(events.map(({ id }) => id)).size, events.length)

  const [post] = listener.posts
  t.equal(post?.url, '/hook?key=1')
  t.equal(post?.headers['content-type'], 'application/vnd.docker.distribution.events.v2+json')
  t.equal(post?.headers['authorization'], 'Bearer abc')
  t.equal(post?.headers['x-two'], 'a, b')
  t.match(post?.body, /^\{\n {3}"events": \[\n/, 'indented')
  t.ok(listener.posts.every(({ events: its }) => its.length === 1))
  t.notMatch(JSON.stringify(mirror.lines), /Bearer abc|key=1/, 'no secret is in the log')
})

test('a manifest with several tags is told once for each, one without any once', async (t) => {
  const { mirror, next } = await start(t)
  const one = image({ layers: [10], seed: 1 })
  const both = index({ images: { 'linux/amd64': one } })
  await pushImage(`${mirror.url}/v2/team/app`, one)
  await next(one.blobs.length + 1)
  await send(
    `${mirror.url}/v2/team/app/manifests/${both.manifest.digest}?tag=a&tag=b`,
    'PUT',
    both.manifest.bytes,
    { 'content-type': both.manifest.mediaType },
  )
  const [a, b] = await next(2)
  t.same([a?.target.tag, b?.target.tag], ['a', 'b'])
  t.same(a?.target['references'], [
    { mediaType: one.manifest.mediaType, digest: one.manifest.digest, size: one.manifest.bytes.length },
  ])
})

test('mounts and deletes are told, refusals are not', async (t) => {
  const { mirror, next } = await start(t)
  const app = image({ layers: [100], seed: 'app' })
  const [blob] = app.layers
  await pushImage(`${mirror.url}/v2/team/app`, app, 'v1')
  await next(app.blobs.length + 1)

  const repository = `${mirror.url}/v2/team/other`
  await send(`${repository}/blobs/uploads/?mount=${layer({ size: 5, seed: 9 }).digest}&from=team/app`, 'POST')
  await send(`${repository}/blobs/uploads/?mount=${blob?.digest}&from=team/app`, 'POST')
  const [mount] = await next(1)
  t.equal(mount?.action, 'mount')
  t.same(mount?.target, {
    mediaType: 'application/octet-stream',
    digest: blob?.digest,
    size: blob?.bytes.length,
    length: blob?.bytes.length,
    repository: 'team/other',
    fromRepository: 'team/app',
    url: `${repository}/blobs/${blob?.digest}`,
  })

  t.equal((await pushManifest(repository, app.manifest, 'v1')).status, 404, 'its config is not there')
  t.equal((await send(`${repository}/blobs/${app.config.digest}`, 'DELETE')).status, 404)
  t.equal((await send(`${repository}/blobs/${blob?.digest}`, 'DELETE')).status, 202)
  const app1 = `${mirror.url}/v2/team/app/manifests`
  t.equal((await send(`${app1}/v1`, 'DELETE')).status, 202)
  t.equal((await send(`${app1}/${app.manifest.digest}`, 'DELETE')).status, 202)
  const deletes = await next(3)
  t.same(
    deletes.map(({ action, target, request }) => [action, target, request['method']]),
    [
      ['delete', { digest: blob?.digest, repository: 'team/other' }, 'DELETE'],
      ['delete', { repository: 'team/app', tag: 'v1' }, 'DELETE'],
      ['delete', { digest: app.manifest.digest, repository: 'team/app' }, 'DELETE'],
    ],
  )
})

test('pulls are told when they were given: of what was pushed, and through the mirror', async (t) => {
  const { mirror, hosted, next } = await start(t, { ignoreActions: ['push'] })
  const app = image({ layers: [100_000], seed: 'app' })
  await pushImage(`${mirror.url}/v2/team/app`, app, 'v1')
  const [blob] = app.layers

  await pull(`${mirror.url}/v2/team/app/manifests/v1`, {}, 'HEAD')
  await pull(`${mirror.url}/v2/team/app/manifests/v1`, { 'if-none-match': `"${app.manifest.digest}"` })
  await pull(`${mirror.url}/v2/team/app/manifests/v2`)
  await pull(`${mirror.url}/v2/team/app/blobs/${blob?.digest}`, { range: 'bytes=10-20' })
  await pull(`${mirror.url}/v2/team/app/blobs/${blob?.digest}`, { range: 'bytes=0-9' })
  await pull(`${mirror.url}/v2/team/app/manifests/v1`, { 'user-agent': 'a-client/1' })
  await pull(`${mirror.url}/v2/library/hosted/manifests/1`)
  await pull(`${mirror.url}/v2/docker.io/hosted/blobs/${hosted.layers[0]?.digest}`)
  const events = await next(4)
  t.ok(events.every(({ action, request }) => action === 'pull' && request['method'] === 'GET'))
  t.same(
    events.map(({ target }) => [target.repository, target.digest, target.tag, target['x-upstream']]),
    [
      ['team/app', blob?.digest, undefined, undefined],
      ['team/app', app.manifest.digest, 'v1', undefined],
      ['docker.io/library/hosted', hosted.manifest.digest, '1', 'docker.io'],
      ['docker.io/library/hosted', hosted.layers[0]?.digest, undefined, 'docker.io'],
    ],
    'once each, and what only looked, or was not there, not at all',
  )
  t.equal(events[1]?.request['useragent'], 'a-client/1')
  t.equal(events[3]?.target['size'], hosted.layers[0]?.bytes.length)
  const address = String(events[2]?.target['url'])
  t.equal((await pull(address)).status, 200, 'the address in it is one')
})

test('of what a client calls itself and us no more is kept for the receivers than they can use', async (t) => {
  const { mirror, next } = await start(t, { ignoreActions: ['push'] })
  const headers = { 'user-agent': 'a'.repeat(30_000) }
  t.equal((await pull(`${mirror.url}/v2/library/hosted/manifests/1`, headers)).status, 200)
  const [event] = await next(1)
  t.equal(event?.request['useragent'], 'a'.repeat(512))
})

test('what is pulled before it is deleted is told before', async (t) => {
  const { mirror, next } = await start(t, { ignoreActions: ['push'] })
  const app = image({ layers: [10], seed: 'app' })
  await pushImage(`${mirror.url}/v2/team/app`, app, 'v1')
  await pull(`${mirror.url}/v2/team/app/manifests/v1`)
  await send(`${mirror.url}/v2/team/app/manifests/v1`, 'DELETE')
  t.same(
    (await next(2)).map(({ action }) => action),
    ['pull', 'delete'],
  )
})

test('the public address is told where it is configured', async (t) => {
  const listener = await Listener.start(t)
  const mirror = await startMirror(t, await simulate(t), {
    config: {
      server: { port: 0, publicUrl: 'https://images.example' },
      push: { local: true },
      notifications: [{ url: listener.url }],
    },
  })
  const blob = layer({ size: 10 })
  await pushBlob(`${mirror.url}/v2/team/app`, blob)
  await listener.until(() => listener.taken.length > 0)
  t.equal(listener.taken[0]?.target['url'], `https://images.example/v2/team/app/blobs/${blob.digest}`)
})

test('a host that a client made up is in no address', async (t) => {
  const { mirror, next } = await startOpen(t)
  const { port } = new URL(mirror.url)
  const app = layer({ size: 10 })
  const path = `/v2/team/app/blobs/${app.digest}`
  const own = `127.0.0.1:${port}`
  for (const [host, told] of [
    ['evil.example', own],
    [`evil.example:${port}`, own],
    ['127.0.0.1', own],
    ['127.0.0.1:1', own],
    [`127.0.0.1.evil.example:${port}`, own],
    [`192.0.2.1:${port}`, own],
    [own, own],
    [`localhost:${port}`, `localhost:${port}`],
    [`${hostname()}:${port}`, `${hostname()}:${port}`],
  ] as const) {
    const upload = `${mirror.url}/v2/team/app/blobs/uploads/?digest=${app.digest}`
    t.equal((await send(upload, 'POST', app.bytes, { host })).status, 201)
    const [pushed] = await next(1)
    t.equal(pushed?.target['url'], `http://${told}${path}`, host)
    t.equal(pushed?.request['host'], host, 'what it said is told as that')
    t.notOk('reachedBy' in (pushed?.request ?? {}))
    t.equal((await pull(`${mirror.url}${path}`, { host, connection: 'close' })).status, 200)
    const [pulled] = await next(1)
    t.equal(pulled?.target['url'], `http://${told}${path}`, `a pull of ${host}`)
  }
})

/** For the network, where any name is answered, and whoever reaches it may push. */
async function startOpen(t: Test): Promise<Pick<Scene, 'mirror' | 'next'>> {
  const listener = await Listener.start(t)
  const mirror = await startMirror(t, await simulate(t), {
    config: {
      server: { port: 0, host: '0.0.0.0' },
      ...{ local: ['team/**'], push: { anonymous: true }, notifications: [{ url: listener.url }] },
    },
  })
  let seen = 0
  const next = async (count: number): Promise<Told[]> => {
    await listener.until(() => listener.taken.length >= seen + count)
    return listener.taken.slice(seen, (seen += count))
  }
  return { mirror: { ...mirror, url: mirror.url.replace('0.0.0.0', '127.0.0.1') }, next }
}
