/** Whom a server on loopback answers: who calls it something that it is called, and no page that was led to it. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { AllowedHosts } from '../../src/http/allowed-hosts.ts'
import { pull, simulate, startMirror, type Mirror } from '../support/app.ts'
import { image } from '../support/images.ts'
import { pushImage } from '../support/push.ts'
import { messageOf } from '../support/two-upstreams.ts'
import { open, replies } from '../support/http-fakes.ts'

const PUSHED = image({ layers: [300_000], seed: 'pushed' })
const MIRRORED = image({ layers: [200_000], seed: 'mirrored' })

const STRANGERS = [
  'evil.example',
  'evil.example:5000',
  'localhost.evil.example',
  '127.0.0.1.evil.example',
  'evil-localhost',
  '192.0.2.1:5000',
  '0.0.0.0',
  '[2001:db8::1]',
]
const OURS = [
  'localhost',
  'LOCALHOST:80',
  'localhost.',
  'mirror.localhost',
  '127.0.0.1',
  '127.8.9.10:1',
  '[::1]:5000',
]

async function start(t: Test, config: Record<string, unknown> = {}): Promise<Mirror> {
  const upstream = await simulate(t)
  upstream.addImage('library/app', '1', MIRRORED)
  const mirror = await startMirror(t, upstream, {
    cache: { prefetch: 'off' },
    config: { local: ['ours/**'], ...config },
  })
  return { ...mirror, url: mirror.url.replace('0.0.0.0', '127.0.0.1') }
}

/** Whatever tells what is here: pushed, mirrored, cold (its first pull) and hot. */
const READS = [
  ...['/v2/', '/v2/_catalog', '/v1/search?q=app', '/_entrepot/explain?ref=ours/app:1'],
  ...[
    '/v2/ours/app/tags/list',
    '/v2/ours/app/manifests/1',
    `/v2/ours/app/manifests/${PUSHED.manifest.digest}`,
  ],
  ...PUSHED.blobs.map(({ digest }) => `/v2/ours/app/blobs/${digest}`),
  `/v2/ours/app/referrers/${PUSHED.manifest.digest}`,
  ...['/v2/library/app/tags/list', '/v2/library/app/manifests/1', '/v2/quay.io/none/manifests/1'],
  ...MIRRORED.blobs.map(({ digest }) => `/v2/docker.io/library/app/blobs/${digest}`),
]

test('a name that is not ours is answered nothing, hot or cold, pushed or mirrored', async (t) => {
  const mirror = await start(t)
  t.equal((await pushImage(`${mirror.url}/v2/ours/app`, PUSHED, '1')).status, 201)
  const refuses = async (host: string, targets: readonly string[] = READS): Promise<void> => {
    for (const target of targets) {
      const answer = await pull(mirror.url + target, { host })
      t.equal(answer.status, 403, `${host}: ${target}`)
      t.match(answer.body.toString(), /"code":"DENIED".*server\.publicUrl/)
      const head = await pull(mirror.url + target, { host }, 'HEAD')
      t.equal(head.status, 403, `${host}: HEAD ${target}`)
    }
  }
  await refuses('evil.example')
  const told = await pull(`${mirror.url}/v2/library/app/manifests/1`)
  t.equal(told.cache, 'miss', 'nothing was fetched for it')
  for (const it of MIRRORED.blobs) await pull(`${mirror.url}/v2/library/app/blobs/${it.digest}`)
  for (const target of READS) t.ok((await pull(mirror.url + target)).status < 500)
  await refuses('evil.example')
  for (const host of STRANGERS)
    await refuses(host, ['/v2/_catalog', `/v2/ours/app/blobs/${PUSHED.layers[0]!.digest}`])
  const part = { host: 'evil.example', range: 'bytes=0-9' }
  t.equal((await pull(`${mirror.url}/v2/ours/app/blobs/${PUSHED.layers[0]!.digest}`, part)).status, 403)
  t.match(
    messageOf(await pull(`${mirror.url}/v2/`, { host: 'evil.example' })),
    /listens on this machine only.*localhost/,
  )
})

test('every name of this machine is answered', async (t) => {
  const mirror = await start(t)
  await pushImage(`${mirror.url}/v2/ours/app`, PUSHED, '1')
  for (const host of [...OURS, hostname()]) {
    for (const target of ['/v2/', '/v2/_catalog', '/v2/ours/app/manifests/1', '/v2/library/app/manifests/1'])
      t.equal((await pull(mirror.url + target, { host })).status, 200, `${host}: ${target}`)
  }
  const { port } = new URL(mirror.url)
  const socket = await open(Number(port))
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  socket.write('GET /v2/_catalog HTTP/1.0\r\n\r\n')
  await once(socket, 'close')
  t.equal(replies(Buffer.concat(chunks).toString('latin1'))[0]?.status, 200, 'HTTP/1.0 knows none')
})

test('what has no end of other names keeps no end of them in memory', async (t) => {
  const hosts = new AllowedHosts({ publicUrl: undefined, hostsFile: join(t.testdir(), 'none') })
  for (let i = 0; i < 1000; i++) t.ok(hosts.serves(`${i}.localhost`))
  t.notOk(hosts.serves(`${'a.'.repeat(1000)}localhost`), 'no name is as long')
})

test('whoever watches asks by any name, and is told no names of images', async (t) => {
  const mirror = await start(t)
  for (const host of [...STRANGERS, ...OURS]) {
    for (const target of ['/', '/livez', '/readyz', '/metrics'])
      t.equal((await pull(mirror.url + target, { host })).status, 200, `${host}: ${target}`)
  }
  const readyz = async (host: string): Promise<unknown> =>
    JSON.parse((await pull(`${mirror.url}/readyz`, { host })).body.toString())
  t.same(await readyz('evil.example'), { status: 'ok' })
  t.match(await readyz('localhost'), { status: 'ok', storage: 'ok', quarantine: { count: 0 } })
})

test('the name of publicUrl is one of ours, with or without a port', async (t) => {
  const mirror = await start(t, { server: { port: 0, publicUrl: 'https://Mirror.example:8443' } })
  for (const host of ['mirror.example', 'MIRROR.example:8443', 'mirror.example:443', ...OURS])
    t.equal((await pull(`${mirror.url}/v2/_catalog`, { host })).status, 200, host)
  for (const host of STRANGERS) t.equal((await pull(`${mirror.url}/v2/_catalog`, { host })).status, 403, host)
})

test('a server for the network, and one behind an nginx of its own, answer any name', async (t) => {
  for (const server of [
    { port: 0, host: '0.0.0.0' },
    { port: 0, accelRedirect: '/blobs/' },
  ]) {
    const mirror = await start(t, { server })
    for (const host of [...STRANGERS, ...OURS]) {
      for (const target of ['/v2/_catalog', '/v2/library/app/manifests/1'])
        t.equal((await pull(mirror.url + target, { host })).status, 200, `${JSON.stringify(server)}: ${host}`)
    }
    await mirror.close()
  }
})

test('names that the file of hosts gives loopback addresses are ours, as long as it does', async (t) => {
  const hostsFile = join(t.testdir(), 'hosts')
  let now = 0
  const hosts = new AllowedHosts({ publicUrl: undefined, hostsFile, now: () => now })
  t.notOk(hosts.serves('registry.test:5000'), 'there is no file')
  const lines = [
    '# 127.0.0.1 commented.test',
    '127.0.1.1\tRegistry.test r.test # other.test',
    '192.0.2.1 far.test',
  ]
  writeFileSync(hostsFile, [...lines, '::1 six.test', '', 'nonsense'].join('\n'))
  now += 5000
  for (const host of ['registry.test', 'REGISTRY.test:5000', 'r.test', 'six.test:1', 'registry.test.'])
    t.ok(hosts.serves(host), host)
  for (const host of ['commented.test', 'other.test', 'far.test', 'test', 'x.registry.test', '192.0.2.1', ''])
    t.notOk(hosts.serves(host), host)
})
