import { createServer, request, type IncomingMessage } from 'node:http'
import { connect as connectSocket, type AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { test, type Test } from 'tap'
import { proxyFor } from '../../../src/upstream/transport/proxy.ts'
import { pull, startMirror } from '../../support/app.ts'
import { everythingSaid, guard } from '../../support/guarded.ts'
import { codeOf, messageOf } from '../../support/two-upstreams.ts'
import { bytesOf, clientFor, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'
import { TEST_CERTIFICATE, TEST_KEY } from '../../support/upstream-tls.ts'
import { eventually, settled, simulate } from '../../support/app.ts'

/** A forwarding and tunnelling proxy that knows where `registry.test` is, and writes down what it was asked. */
async function startProxy(t: Test): Promise<{ url: string; asked: string[]; authorization: Set<string> }> {
  const asked: string[] = []
  const authorization = new Set<string>()
  const note = (incoming: IncomingMessage): URL => {
    asked.push(`${incoming.method ?? ''} ${incoming.url ?? ''}`)
    authorization.add(incoming.headers['proxy-authorization'] ?? '')
    return new URL(incoming.method === 'CONNECT' ? `http://${incoming.url ?? ''}` : (incoming.url ?? ''))
  }
  const server = createServer((incoming, response) => {
    const { port, pathname, search } = note(incoming)
    const { 'proxy-authorization': _, ...headers } = incoming.headers
    const outgoing = request({ host: '127.0.0.1', port, path: pathname + search, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.rawHeaders)
      answer.pipe(response)
    })
    outgoing.end()
  })
  server.on('connect', (incoming, socket) => {
    const onward = connectSocket(Number(note(incoming).port), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      socket.pipe(onward).pipe(socket)
    })
    for (const it of [socket, onward]) it.on('error', () => it.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked, authorization }
}

void test('a plain registry is asked through the proxy, its CDN too', async (t) => {
  const { upstream, image, signal } = await connect(t, { token: {}, cdn: {} })
  const proxy = await startProxy(t)
  const client = clientFor(t, { url: upstream.url, proxy: proxy.url })
  const { digest, bytes } = image.layers[0]!
  t.ok((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).equals(bytes))
  for (const url of [upstream.url, upstream.authUrl, upstream.cdnUrl]) {
    t.ok(
      proxy.asked.some((it) => it.startsWith(`GET ${url}/`)),
      url,
    )
  }
  t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
})

void test('a TLS registry is reached through a tunnel, and its own certificate checked', async (t) => {
  const { upstream, image, signal } = await connect(t, { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } })
  const { port } = new URL(upstream.url)
  const proxy = await startProxy(t)
  const options = { url: `https://registry.test:${port}`, proxy: proxy.url.replace('//', '//me:secret@') }
  const client = clientFor(t, { ...options, ca: TEST_CERTIFICATE })
  const { digest, bytes } = image.layers[0]!
  t.ok((await bytesOf(await client.blob(NAME, digest, { from: 0, signal }))).equals(bytes))
  t.same(new Set(proxy.asked), new Set([`CONNECT registry.test:${port}`]))
  t.same([...proxy.authorization], [`Basic ${Buffer.from('me:secret').toString('base64')}`])

  const unbelieving = clientFor(t, options)
  t.equal((await failureOf(unbelieving.manifest(NAME, LATEST, signal))).failure, 'unreachable')
})

void test('a proxy that is down, refuses, or says nothing makes the upstream unreachable', async (t) => {
  const { signal } = new AbortController()
  const timeouts = { connect: 200, headers: 200, idle: 200 }
  await Promise.all(
    [
      (socket: Duplex) => socket.destroy(),
      (socket: Duplex) => socket.end('HTTP/1.1 403 Forbidden\r\n\r\n'),
      () => undefined,
    ].map(async (answer) => {
      const proxy = createServer()
      const sockets = new Set<Duplex>()
      proxy.on('connect', (_request, socket: Duplex) => {
        sockets.add(socket)
        socket.on('error', () => undefined)
        answer(socket)
      })
      await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
      const { port } = proxy.address() as AddressInfo
      const url = 'https://registry.test'
      const client = clientFor(t, { url, proxy: `http://127.0.0.1:${port}`, timeouts })
      t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'unreachable')
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => proxy.close(resolve))
      const plain = clientFor(t, { url: 'http://registry.test', proxy: `http://127.0.0.1:${port}`, timeouts })
      for (const it of [client, plain]) {
        t.equal((await failureOf(it.manifest(NAME, LATEST, signal))).failure, 'unreachable')
      }
    }),
  )
})

interface Wall {
  url: string
  /** What it says in place of passing anything on; undefined: it passes everything on. */
  says: { status: number; html: boolean } | undefined
}

async function startWall(t: Test): Promise<Wall> {
  const wall: Wall = { url: '', says: undefined }
  const proxy = createServer((incoming, response) => {
    const { says } = wall
    if (says !== undefined) {
      const type = says.html ? 'text/html; charset=utf-8' : 'text/plain'
      response.writeHead(says.status, { 'content-type': type, 'proxy-authenticate': 'Basic realm="wall"' })
      response.end('<h1>Blocked by policy</h1>')
      return
    }
    const { port, pathname, search } = new URL(incoming.url ?? '')
    const { headers, method } = incoming
    const outgoing = request(
      { host: '127.0.0.1', port, path: pathname + search, headers, method },
      (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.rawHeaders)
        answer.pipe(response)
      },
    )
    outgoing.end()
  })
  proxy.on('connect', (_incoming, socket) => {
    const { says } = wall
    socket.on('error', () => undefined)
    socket.end(`HTTP/1.1 ${says?.status ?? 502} No\r\ncontent-length: 0\r\n\r\n`)
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    proxy.closeAllConnections()
    proxy.close()
  })
  wall.url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`
  return wall
}

for (const says of [
  { status: 403, html: true },
  { status: 407, html: true },
  { status: 407, html: false },
]) {
  const { status, html } = says
  void test(`what a proxy says is not the registry's word: ${status}${html ? ' with a page' : ''}`, async (t) => {
    const wall = await startWall(t)
    const { upstream, mirror, image, get, readyz, clock, grownStale } = await guard(
      t,
      { token: {}, cdn: {} },
      { upstream: { proxy: wall.url } },
    )
    upstream.addImage('library/cold', '1', image)
    await grownStale()
    upstream.log.clear()
    wall.says = says
    const cold = `${mirror.url}/v2/library/cold`
    for (const path of ['manifests/1', `blobs/${image.layers[0]!.digest}`, 'tags/list']) {
      const refused = await pull(`${cold}/${path}`)
      t.same([refused.status, codeOf(refused)], [503, 'UNAVAILABLE'], path)
      if (path === 'manifests/1') t.match(messageOf(refused), /proxy/)
    }
    t.equal((await pull(`${cold}/manifests/1`, {}, 'HEAD')).status, 503)
    t.match(await get(), { status: 200, cache: 'stale' })
    const { upstreams } = await readyz()
    const named = new RegExp(`the proxy ${new URL(wall.url).host} answered ${status}`)
    t.match(upstreams, [{ key: 'docker.io', state: 'failing', message: named }])
    t.ok(named.test(everythingSaid(mirror)))
    t.equal(upstream.log.count(), 0)
    wall.says = undefined
    clock.now += 400_000
    t.equal((await pull(`${cold}/manifests/1`)).status, 200, 'and it is over when it is over')
  })
}

void test("a tunnel that a proxy refuses is named, and not the registry's word", async (t) => {
  const wall = await startWall(t)
  wall.says = { status: 407, html: false }
  const mirror = await startMirror(t, { url: 'https://registry.test' }, { upstream: { proxy: wall.url } })
  const refused = await pull(`${mirror.url}/v2/library/app/manifests/1`)
  t.same([refused.status, codeOf(refused)], [503, 'UNAVAILABLE'])
  t.match(messageOf(refused), /proxy/)
  const ready = await pull(`${mirror.url}/readyz`)
  t.match(ready.body.toString(), /the proxy 127.0.0.1:\d+ answered 407/)
})

void test('a web page of somebody on the way that nobody told us of is no refusal of the registry', async (t) => {
  const { upstream, get, grownStale, readyz } = await guard(t, { token: {} })
  await grownStale()
  upstream.fault({}, { status: 403, body: 'html' })
  t.match(await get(), { status: 200, cache: 'stale' })
  const refused = await get('manifests/2')
  t.same([refused.status, codeOf(refused)], [503, 'UNAVAILABLE'])
  t.match((await readyz()).upstreams, [{ state: 'failing', message: /a proxy answered 403/ }])
})

void test('which requests go through which proxy', (t) => {
  const HTTPS_PROXY = 'http://proxy:3128'
  for (const [url, env, expected] of [
    ['https://quay.io/', {}, undefined],
    ['https://quay.io/', { HTTPS_PROXY }, HTTPS_PROXY],
    ['https://quay.io/', { https_proxy: HTTPS_PROXY, HTTPS_PROXY: 'http://other' }, HTTPS_PROXY],
    ['https://quay.io/', { HTTPS_PROXY: 'proxy:3128' }, HTTPS_PROXY],
    ['https://quay.io/', { HTTPS_PROXY: '' }, undefined],
    ['https://quay.io/', { HTTP_PROXY: HTTPS_PROXY }, undefined],
    ['http://registry.lan/', { HTTP_PROXY: HTTPS_PROXY }, HTTPS_PROXY],
    ['https://localhost:5000/', { HTTPS_PROXY }, undefined],
    ['https://127.0.0.1:5000/', { HTTPS_PROXY }, undefined],
    ['https://[::1]/', { HTTPS_PROXY }, undefined],
    ['https://quay.io/', { HTTPS_PROXY, NO_PROXY: '*' }, undefined],
    ['https://quay.io/', { HTTPS_PROXY, NO_PROXY: 'quay.io' }, undefined],
    ['https://cdn.quay.io/', { HTTPS_PROXY, NO_PROXY: 'quay.io' }, undefined],
    ['https://cdn.quay.io/', { HTTPS_PROXY, NO_PROXY: '.quay.io' }, undefined],
    ['https://cdn.quay.io/', { HTTPS_PROXY, NO_PROXY: '*.quay.io' }, undefined],
    ['https://notquay.io/', { HTTPS_PROXY, NO_PROXY: 'quay.io' }, HTTPS_PROXY],
    ['https://quay.io/', { HTTPS_PROXY, NO_PROXY: 'x, QUAY.IO' }, undefined],
    ['https://quay.io/', { HTTPS_PROXY, NO_PROXY: 'quay.io:443' }, undefined],
    ['https://quay.io/', { HTTPS_PROXY, NO_PROXY: 'quay.io:8443' }, HTTPS_PROXY],
    ['https://10.1.2.3/', { HTTPS_PROXY, NO_PROXY: '10.0.0.0/8' }, undefined],
    ['https://11.1.2.3/', { HTTPS_PROXY, NO_PROXY: '10.0.0.0/8' }, HTTPS_PROXY],
    ['https://10.1.2.3/', { HTTPS_PROXY, NO_PROXY: '10.1.2.3' }, undefined],
    ['https://[fd00::1]/', { HTTPS_PROXY, NO_PROXY: 'fd00::/8' }, undefined],
    ['https://[fd00::1]:5000/', { HTTPS_PROXY, NO_PROXY: '[fd00::1]:5000' }, undefined],
    ['https://quay.io/', { HTTPS_PROXY, NO_PROXY: '/8, a/b/c, 10.0.0.0/99, :, []:1' }, HTTPS_PROXY],
  ] as const) {
    t.equal(proxyFor(new URL(url), { env }), expected, `${url} ${JSON.stringify(env)}`)
    t.equal(proxyFor(new URL(url), { env, proxy: 'http://own' }), 'http://own')
  }
  t.end()
})

for (const [way, shown] of [
  ['with GET', { username: 'robot', password: 'a secret' }],
  ['with POST', { username: '<token>', password: 'an identity token' }],
] as const) {
  void test(`nor of the token service, asked ${way}: what a proxy says there is no refusal of ours`, async (t) => {
    const identityToken = shown.username === '<token>' ? { identityToken: shown.password } : {}
    const token = { anonymous: false, credentials: shown, ...identityToken }
    const { upstream, mirror, get, grownStale, readyz } = await guard(
      t,
      { token },
      { upstream: { ...shown, allow: ['**'] } },
    )
    await grownStale()
    upstream.fault({ kind: 'token' }, { status: 403, body: 'html' })
    t.match(await get(), { status: 200, cache: 'stale' })
    const refused = await pull(`${mirror.url}/v2/library/cold/manifests/1`)
    t.same([refused.status, codeOf(refused)], [503, 'UNAVAILABLE'])
    t.match((await readyz()).upstreams, [{ state: 'failing', message: /a proxy answered 403/ }])
  })
}

void test('nor of a registry that we are sent to, whatever is asked there', async (t) => {
  const there = await simulate(t)
  const { mirror, image, clock, get } = await guard(t, { elsewhere: ({ url }) => `${there.url}${url}` })
  there.addImage('library/app', '1', image)
  t.equal((await get()).status, 200)
  await settled(mirror)
  await eventually('it is kept', async () => (await get()).cache === 'hit')
  // Longer than it would be answered stale to a refusal.
  clock.now += 2 * 24 * 3_600_000
  there.fault({}, { status: 403, body: 'html' })
  for (const method of ['HEAD', 'GET'] as const) {
    t.match(await pull(`${mirror.url}/v2/library/app/manifests/1`, {}, method), {
      status: 200,
      cache: 'stale',
    })
    for (const path of [
      'manifests/2',
      `manifests/sha256:${'0'.repeat(64)}`,
      `referrers/sha256:${'0'.repeat(64)}`,
      // Whoever asks by HEAD for what nothing here names is about to push.
      ...(method === 'GET' ? [`blobs/sha256:${'0'.repeat(64)}`] : []),
    ]) {
      const refused = await pull(`${mirror.url}/v2/library/app/${path}`, {}, method)
      t.equal(refused.status, 503, `${method} ${path}`)
      if (method === 'GET') t.match(messageOf(refused), /proxy/, path)
    }
  }
})
