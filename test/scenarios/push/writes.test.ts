/** Where writes go, and the words in which they are refused. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { Readable } from 'node:stream'
import type { Test } from 'tap'
import { test } from 'tap'
import { request } from 'undici'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { eventually } from '../../support/app.ts'
import { blobFile } from '../../support/folder.ts'
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import type { Digest } from '../../../src/oci/digest.ts'
import { referrersTag } from '../../../src/oci/referrers.ts'
import { content, descriptorOf, image, index, layer, type Image } from '../../support/images.ts'
import { pushBlob, pushImage, pushManifest, send } from '../../support/push.ts'
import { codeOf, messageOf, startTwoUpstreams } from '../../support/two-upstreams.ts'

const pushed = image({ layers: [100], seed: 'pushed' })
const { digest } = pushed.layers[0]!

/** Every way of writing to a name. */
const WRITES = [
  ['POST', 'blobs/uploads/'],
  ['POST', 'blobs/uploads'],
  ['POST', `blobs/uploads/?digest=${digest}`],
  ['POST', `blobs/uploads/?mount=${digest}&from=team/app`],
  ['PATCH', 'blobs/uploads/a.b'],
  ['PUT', `blobs/uploads/a.b?digest=${digest}`],
  ['GET', 'blobs/uploads/a.b'],
  ['DELETE', 'blobs/uploads/a.b'],
  ['PUT', 'manifests/1'],
  ['PUT', `manifests/${pushed.manifest.digest}`],
  ['DELETE', 'manifests/1'],
  ['DELETE', `manifests/${pushed.manifest.digest}`],
  ['DELETE', `blobs/${digest}`],
] as const

function write(
  url: string,
  method: (typeof WRITES)[number][0],
  headers: Record<string, string> = {},
): ReturnType<typeof send> {
  const body = method === 'PUT' || method === 'PATCH' ? pushed.manifest.bytes : null
  return send(url, method, body, headers)
}

/** Every write to that name is refused with 403 and words that match; where it is mirrored, deleting is with 405. */
async function assertDenied(
  t: Test,
  repository: string,
  words: readonly (RegExp | string)[],
  headers: Record<string, string> = {},
  ns?: string,
  mirrored = false,
): Promise<void> {
  for (const [method, part] of WRITES) {
    const url = `${repository}/${part}`
    const answer = await write(
      ns === undefined ? url : `${url}${part.includes('?') ? '&' : '?'}ns=${ns}`,
      method,
      headers,
    )
    t.equal(answer.headers['content-type'], 'application/json')
    if (mirrored && method === 'DELETE' && !part.includes('uploads')) {
      t.same([answer.status, codeOf(answer)], [405, 'UNSUPPORTED'], `${method} ${url}`)
      t.equal(answer.headers['allow'], 'GET, HEAD')
      t.match(messageOf(answer), 'is mirrored from')
      continue
    }
    t.same([answer.status, codeOf(answer)], [403, 'DENIED'], `${method} ${url}`)
    for (const word of words) t.match(messageOf(answer), word)
  }
}

/** All files below the root, without the reserve and the database, whose log may be written at any time. */
function filesIn(root: string): string[] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter(
      (name) =>
        !name.startsWith('metadata.sqlite') && name !== 'reserve' && statSync(path.join(root, name)).isFile(),
    )
    .sort()
}

test('a name that an upstream owns is refused; the message says whose it is, and what name would work', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t, { quay: { aliases: ['quay.example'] } })
  const before = filesIn(mirror.root)
  for (const [name, ns, rule, owner] of [
    ['quay.io/team/app', undefined, 'quay.io/', 'quay.io'],
    ['quay.example/team/app', undefined, 'quay.example/', 'quay.io'],
    ['index.docker.io/app', undefined, 'index.docker.io/', 'docker.io'],
    ['team/app', 'quay.example', 'ns=quay.example', 'quay.io'],
    ['app', 'docker.io', 'ns=docker.io', 'docker.io'],
  ] as const) {
    await assertDenied(t, `${mirror.url}/v2/${name}`, [rule, `of ${owner}`, 'team/app, works'], {}, ns, true)
  }
  t.same(filesIn(mirror.root), before)
  t.equal(asked(), 0)
})

test('with names of our own in the configuration, the message names one of them', async (t) => {
  const { mirror } = await startTwoUpstreams(t, { config: { local: ['ours/**'] } })
  await assertDenied(
    t,
    `${mirror.url}/v2/quay.io/app`,
    ['a name that matches ours/** works'],
    {},
    undefined,
    true,
  )
})

test('push.deny refuses names that would be free otherwise, and its default keeps library/ free', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t, {
    config: { push: { deny: ['library/**', 'reserved', 'prod-*/**'] } },
  })
  for (const name of ['library/app', 'reserved', 'prod-1/app']) {
    await assertDenied(t, `${mirror.url}/v2/${name}`, ['push.deny reserves'])
  }
  const standard = await startTwoUpstreams(t)
  await assertDenied(t, `${standard.mirror.url}/v2/library/app`, ['push.deny reserves library/**'])
  t.equal(asked(), 0)
})

test('a program on this machine pushes to any name that nobody claims, and it is local from then on', async (t) => {
  const { mirror, hub, asked, get } = await startTwoUpstreams(t)
  hub.addImage('library/app', '1', image({ layers: [10], seed: 'of the hub' }))
  t.equal((await pushImage(`${mirror.url}/v2/app`, pushed, '1')).status, 201)
  const found = await get('app/manifests/1')
  t.same([found.status, found.cache], [200, 'local'])
  t.same(found.body, pushed.manifest.bytes)
  t.equal((await get('library/app/manifests/1')).cache, 'miss', 'the other one is still the upstream’s')
  const before = asked()
  t.equal((await get('app/manifests/2')).status, 404, 'tags are never mixed')
  t.equal(asked(), before)
})

test('a name under which the default upstream was served here is refused', async (t) => {
  const { mirror, hub, get } = await startTwoUpstreams(t)
  hub.addImage('team/app', '1', image({ layers: [10], seed: 'of the hub' }))
  t.equal((await get('team/app/manifests/1')).status, 200)
  // It is answered before it is written down.
  await eventually('it is cached', async () => (await get('team/app/manifests/1')).cache === 'hit')
  await assertDenied(
    t,
    `${mirror.url}/v2/team/app`,
    ['was pulled from docker.io', 'would hide it'],
    {},
    undefined,
    true,
  )
})

test('so is a name of which something was answered, and not written down yet', async (t) => {
  const theirs = image({ layers: [200_000], seed: 'of the hub' })
  const writable = Promise.withResolvers<undefined>()
  const datasync: Files['datasync'] = async (file) => {
    await writable.promise
    await nodeFiles.datasync(file)
  }
  const { mirror, hub, get, head } = await startTwoUpstreams(t, {
    files: { ...nodeFiles, datasync },
    cache: { prefetch: 'off' },
  })
  using _stopping = { [Symbol.dispose]: () => writable.resolve(undefined) }
  for (const [name, pull] of [
    ['team/manifest', () => get('team/manifest/manifests/1')],
    ['team/digest', () => get(`team/digest/manifests/${theirs.manifest.digest}`)],
    ['team/blob', () => get(`team/blob/blobs/${theirs.layers[0]!.digest}`)],
    ['team/head', () => head('team/head/manifests/1')],
  ] as const) {
    hub.addImage(name, '1', theirs)
    t.equal((await pull()).status, 200)
    const words = ['was pulled from docker.io', 'would hide it']
    await assertDenied(t, `${mirror.url}/v2/${name}`, words, {}, undefined, true)
  }
})

test('so is a push that began before that pull, and ends after it', async (t) => {
  const theirs = image({ layers: [10], seed: 'of the hub' })
  const { mirror, hub, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  hub.addImage('team/app', '1', theirs)
  const blob = layer({ size: 1000, seed: 'ours' })
  const begun = await send(`${repository}/blobs/uploads/`, 'POST')
  t.equal(begun.status, 202)
  const location = new URL(String(begun.headers['location']), repository)
  location.searchParams.set('digest', blob.digest)
  async function* slowly(): AsyncGenerator<Buffer> {
    yield blob.bytes.subarray(0, 400)
    t.equal((await get('team/app/manifests/1')).status, 200)
    yield blob.bytes.subarray(400)
  }
  const ended = await request(location, { method: 'PUT', body: Readable.from(slowly()) })
  t.equal(ended.statusCode, 403)
  await ended.body.dump()
  t.same((await get('team/app/manifests/1')).body, theirs.manifest.bytes)
})

test('whatever tells of another hop, or of another host, is no program on this machine', async (t) => {
  const { mirror } = await startTwoUpstreams(t, { config: { local: ['ours/**'] } })
  for (const headers of [
    { forwarded: 'for=192.0.2.1' },
    { 'x-forwarded-for': '192.0.2.1' },
    { 'x-forwarded-proto': 'https' },
    { via: '1.1 proxy' },
    { origin: 'https://page.example' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
    { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' },
    { host: 'mirror.example' },
    { host: '192.0.2.1:5000' },
    { host: 'localhost.example' },
  ]) {
    await assertDenied(t, `${mirror.url}/v2/ours/app`, ['push.anonymous'], headers)
  }
  const { port } = new URL(mirror.url)
  for (const host of [`localhost:${port}`, '127.0.0.9', '[::1]:5000', 'mirror.localhost']) {
    const answer = await write(`${mirror.url}/v2/ours/app/blobs/uploads/`, 'POST', { host })
    t.equal(answer.status, 202, host)
  }
  // What a program that speaks `fetch` sends, and a person who types an address.
  for (const headers of [
    { 'sec-fetch-mode': 'cors' },
    { 'sec-fetch-mode': 'cors', 'sec-fetch-site': 'none' },
    { 'sec-fetch-site': 'same-origin' },
  ]) {
    const answer = await write(`${mirror.url}/v2/ours/app/blobs/uploads/`, 'POST', headers)
    t.equal(answer.status, 202, JSON.stringify(headers))
  }
})

test('a listener that is open to the network takes pushes under local names only, and only when they are anonymous', async (t) => {
  const onNetwork = { server: { port: 0, host: '0.0.0.0' }, local: ['ours/**'] }
  const closed = await startTwoUpstreams(t, { config: onNetwork })
  const own = (url: string): string => url.replace('0.0.0.0', '127.0.0.1')
  await assertDenied(t, `${own(closed.mirror.url)}/v2/ours/app`, [
    'not open to the network',
    'push.anonymous',
  ])

  const open = await startTwoUpstreams(t, { config: { ...onNetwork, push: { anonymous: true } } })
  const base = `${own(open.mirror.url)}/v2`
  t.equal((await pushImage(`${base}/ours/app`, pushed, '1')).status, 201)
  await assertDenied(t, `${base}/new/app`, ['only names of `local`', 'ours/**'])
  await assertDenied(t, `${base}/quay.io/app`, ['of quay.io'], {}, undefined, true)
  const proxied = await send(`${base}/ours/app/blobs/uploads/`, 'POST', null, {
    'x-forwarded-for': '192.0.2.1',
  })
  t.equal(proxied.status, 202)
})

test('tags of push.immutable stay where they are; others move', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t, {
    config: { push: { immutable: ['v*', 'team/*:stable'] } },
  })
  const other: Image = image({ layers: [100], seed: 'other' })
  for (const [name, tag, status] of [
    ['team/app', 'v1', 403],
    ['team/app', 'stable', 403],
    ['other/app', 'stable', 201],
    ['team/app', 'latest', 201],
  ] as const) {
    const repository = `${mirror.url}/v2/${name}`
    t.equal((await pushImage(repository, pushed, tag)).status, 201)
    t.equal((await pushImage(repository, pushed, tag)).status, 201, 'the same once more is no move')
    const moved = await pushImage(repository, other, tag)
    t.equal(moved.status, status, `${name}:${tag}`)
    if (status === 403) t.match(messageOf(moved), /push\.immutable .* keeps the tag/)
    const now = await get(`${name}/manifests/${tag}`)
    t.same(now.body, (status === 403 ? pushed : other).manifest.bytes)
  }
})

test('tags of push.immutable are not deleted by clients, to be pushed as something else', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t, { config: { push: { immutable: ['v*'] } } })
  const repository = `${mirror.url}/v2/team/app`
  await pushImage(repository, pushed, 'v1')
  await pushImage(repository, pushed, 'latest')
  for (const reference of ['v1', pushed.manifest.digest]) {
    const refused = await send(`${repository}/manifests/${reference}`, 'DELETE')
    t.equal(refused.status, 403)
    t.match(messageOf(refused), /push\.immutable .* keeps the tag v1/)
  }
  t.same((await get('team/app/manifests/v1')).body, pushed.manifest.bytes)
  t.equal((await send(`${repository}/manifests/latest`, 'DELETE')).status, 202)
})

test('what an immutable tag leads to is not deleted either, however far down it is', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t, { config: { push: { immutable: ['v*'] } } })
  const repository = `${mirror.url}/v2/team/app`
  const multi = index({ images: { amd64: pushed, arm64: index({ images: { v8: image({ seed: 'arm' }) } }) } })
  const parts = [
    ...multi.manifests.map((it) => `manifests/${it.digest}`),
    ...multi.blobs.map((it) => `blobs/${it.digest}`),
  ]
  await pushImage(repository, multi, 'v1')
  for (const part of parts) {
    const refused = await send(`${repository}/${part}`, 'DELETE')
    t.same([refused.status, codeOf(refused)], [403, 'DENIED'], part)
    t.match(messageOf(refused), /push\.immutable .* keeps the tag v1/)
    t.equal((await get(`team/app/${part}`)).status, 200)
  }
})

test('a blob is not deleted while a manifest of its repository names it, in whatever role', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t)
  const repository = `${mirror.url}/v2/team/app`
  const cached = layer({ size: 50, seed: 'cached' })
  const document = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [descriptorOf(cached)] }
  const cache = content(MEDIA_TYPES.ociIndex, Buffer.from(JSON.stringify(document)))
  await pushImage(repository, pushed, '1')
  await pushBlob(repository, cached)
  await pushManifest(repository, cache, 'cache')
  await send(`${repository}/manifests/1`, 'DELETE')
  for (const { digest } of [...pushed.blobs, cached]) {
    const refused = await send(`${repository}/blobs/${digest}`, 'DELETE')
    t.same([refused.status, codeOf(refused), refused.headers['allow']], [405, 'UNSUPPORTED', 'GET, HEAD'])
    t.equal((await get(`team/app/blobs/${digest}`)).status, 200)
  }
  for (const it of [pushed.manifest, cache]) {
    t.equal((await send(`${repository}/manifests/${it.digest}`, 'DELETE')).status, 202)
  }
  for (const { digest } of [...pushed.blobs, cached]) {
    t.equal((await send(`${repository}/blobs/${digest}`, 'DELETE')).status, 202)
  }
})

test('a referrers tag follows what is pushed and deleted, whatever push.immutable holds', async (t) => {
  const { mirror, get } = await startTwoUpstreams(t, { config: { push: { immutable: ['*'] } } })
  const repository = `${mirror.url}/v2/team/app`
  const listed = async (): Promise<unknown> =>
    (JSON.parse((await get(`team/app/manifests/${tag}`)).body.toString()) as { manifests: unknown }).manifests
  const tag = referrersTag(pushed.manifest.digest)
  const signature = image({ seed: 'signature', subject: pushed.manifest, artifactType: 'application/x-sig' })
  const list = content(
    MEDIA_TYPES.ociIndex,
    Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] })),
  )
  await pushImage(repository, pushed, '1')
  t.equal((await pushManifest(repository, list, tag)).status, 201)
  t.equal((await pushImage(repository, signature)).status, 201)
  t.match(await listed(), [{ digest: signature.manifest.digest }])
  t.equal((await pushManifest(repository, list, tag)).status, 403, 'clients do not move it')
  t.equal((await send(`${repository}/manifests/${tag}`, 'DELETE')).status, 403)
  t.equal((await send(`${repository}/manifests/${signature.manifest.digest}`, 'DELETE')).status, 202)
  t.same(await listed(), [])
})

test('a list that a referrers tag no longer names goes at once, unless something else leads to it', async (t) => {
  const root = t.testdir()
  const { mirror, get } = await startTwoUpstreams(t, { root })
  const repository = `${mirror.url}/v2/team/app`
  const tag = referrersTag(pushed.manifest.digest)
  const signature = (seed: string): Image =>
    image({ seed, subject: pushed.manifest, artifactType: 'application/x-sig' })
  const named = async (): Promise<Digest> => {
    const { headers } = await get(`team/app/manifests/${tag}`)
    return String(headers['docker-content-digest']) as Digest
  }
  const list = content(
    MEDIA_TYPES.ociIndex,
    Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] })),
  )
  await pushImage(repository, pushed, '1')
  await pushManifest(repository, list, tag)
  await pushImage(repository, signature('one'))
  const first = await named()
  await pushImage(repository, signature('two'))
  for (const digest of [list.digest, first]) {
    t.equal((await get(`team/app/manifests/${digest}`)).status, 404)
    t.notOk(existsSync(blobFile(root, digest)))
    t.same(await mirror.app.metadata.manifests.references(digest), [])
  }
  for (const seed of ['one', 'two']) {
    t.equal((await get(`team/app/manifests/${signature(seed).manifest.digest}`)).status, 200)
  }
  const second = await named()
  const kept = (await get(`team/app/manifests/${second}`)).body
  await pushManifest(repository, content(MEDIA_TYPES.ociIndex, kept), 'kept')
  await send(`${repository}/manifests/${signature('one').manifest.digest}`, 'DELETE')
  t.not(await named(), second)
  t.same((await get('team/app/manifests/kept')).body, kept)
})

test('without a default upstream a free name takes pushes too', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t, { hub: { default: false } })
  t.equal((await pushBlob(`${mirror.url}/v2/new/app`, pushed.layers[0]!)).status, 201)
  t.equal(asked(), 0)
})

test('what must not be pulled cannot be mounted either: it is uploaded', async (t) => {
  const config = { local: ['ours/**'] }
  const denying = await startTwoUpstreams(t, { hub: { allow: ['library/**'] }, config })
  const alone = await startTwoUpstreams(t, { hub: { default: false }, config })
  for (const { mirror } of [denying, alone]) {
    const url = `${mirror.url}/v2/ours/app/blobs/uploads/?mount=${digest}&from=other/app`
    const answer = await send(url, 'POST')
    t.equal(answer.status, 202)
    t.match(answer.headers['location'], /^\/v2\/ours\/app\/blobs\/uploads\//)
  }
})

test('an unknown ns is an unknown name for writes, too', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t)
  for (const [method, part] of WRITES) {
    const answer = await write(
      `${mirror.url}/v2/team/app/${part}${part.includes('?') ? '&' : '?'}ns=evil.example`,
      method,
    )
    t.equal(answer.status, 404, `${method} ${part}`)
    t.equal(codeOf(answer), 'NAME_UNKNOWN')
  }
  t.equal(asked(), 0)
})
