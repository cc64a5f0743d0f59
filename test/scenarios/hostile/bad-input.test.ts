/** What cannot be understood gets the right 4xx with a body, and nobody behind us ever hears of it. */
import { once } from 'node:events'
import { connect } from 'node:net'
import fc from 'fast-check'
import { test, type Test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { call, open, raw, replies, serveFake, type Served } from '../../support/http-fakes.ts'

const digest = digestOf(Buffer.from('x'))

/** One request with a bare socket, answered by exactly one response and the end of the connection. */
async function one(
  served: Served,
  text: string,
): Promise<{ status: number; code: string | undefined; head: string }> {
  const all = replies(await raw(served.port, text))
  if (all.length !== 1) throw new Error(`${all.length} responses`)
  return all[0]!
}

function nobodyHeard(t: Test, { registry, repository }: Served): void {
  t.same([registry.calls, repository.calls], [[], []], 'nobody was asked')
}

test('malformed paths, methods and targets', async (t) => {
  const served = await serveFake(t)
  const cases: [string, number, string][] = [
    ['GET /v2/Alpine/manifests/latest', 400, 'NAME_INVALID'],
    ['GET /v2/a//manifests/latest', 400, 'NAME_INVALID'],
    ['GET /v2/a/../b/manifests/latest', 400, 'NAME_INVALID'],
    ['GET /v2/a%2f..%2fb/manifests/latest', 400, 'NAME_INVALID'],
    ['GET /v2/a/manifests/.hidden', 404, 'MANIFEST_UNKNOWN'],
    ['DELETE /v2/a/manifests/.hidden', 400, 'TAG_INVALID'],
    ['GET /v2/a/manifests/sha256:baddigest', 400, 'DIGEST_INVALID'],
    [`GET /v2/a/blobs/blake3:${'a'.repeat(64)}`, 400, 'DIGEST_INVALID'],
    [`PUT /v2/a/manifests/sha256:${'A'.repeat(64)}`, 400, 'DIGEST_INVALID'],
    ['GET /v2/%zz/manifests/latest', 400, 'BAD_REQUEST'],
    ['GET /v2/%ff/manifests/latest', 400, 'BAD_REQUEST'],
    ['GET http://evil/v2/', 400, 'BAD_REQUEST'],
    ['GET https://127.0.0.1/v2/a/manifests/b', 400, 'BAD_REQUEST'],
    ['OPTIONS *', 400, 'BAD_REQUEST'],
    ['GET //evil/v2/', 404, 'NOT_FOUND'],
    ['GET /v2/a/nothing', 404, 'NOT_FOUND'],
    ['GET /etc/passwd', 404, 'NOT_FOUND'],
    ['POST /v2/', 405, 'UNSUPPORTED'],
    ['DELETE /metrics', 405, 'UNSUPPORTED'],
    ['TRACE /v2/a/manifests/b', 405, 'UNSUPPORTED'],
    ['POST /v2/a/tags/list', 405, 'UNSUPPORTED'],
    ['POST /v2/_catalog', 405, 'UNSUPPORTED'],
    ['FROB /v2/', 400, 'BAD_REQUEST'],
    ['get /v2/', 400, 'BAD_REQUEST'],
    [`GET /v2/a/tags/list?last=${'x'.repeat(9000)}`, 414, 'URI_TOO_LONG'],
  ]
  for (const [line, status, code] of cases) {
    const reply = await one(served, `${line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
    t.same([reply.status, reply.code], [status, code], line.slice(0, 60))
    t.match(reply.head, /content-type: application\/json/i)
    t.equal(/^allow:/im.test(reply.head), status === 405, 'Allow beside 405 only')
  }
  nobodyHeard(t, served)
})

test('a 405 says what would work', async (t) => {
  const { url } = await serveFake(t)
  const allow = async (method: string, path: string): Promise<string | undefined> =>
    (await call(`${url}${path}`, { method })).headers.allow
  t.equal(await allow('PATCH', '/v2/'), 'GET, HEAD')
  t.equal(await allow('PATCH', '/v2/a/manifests/b'), 'GET, HEAD, PUT, DELETE')
  t.equal(await allow('GET', '/v2/a/blobs/uploads/'), 'POST')
  t.equal(await allow('PATCH', `/v2/a/blobs/${digest}`), 'GET, HEAD, DELETE')
  t.equal(await allow('POST', '/v2/a/blobs/uploads/'), '', 'writes that the registry refuses')
})

test('what is not HTTP', async (t) => {
  const served = await serveFake(t)
  for (const text of [
    'HELLO\r\n\r\n',
    'GET /v2/ HTTP/1.1\r\nHost x\r\n\r\n',
    'GET /v2/ HTTP/1.1\r\nHost: x\r\nBad\0Name: y\r\n\r\n',
    'GET /v2/ HTTP/1.1\nHost: x\r\nA: b\r\r\n\r\n',
    'GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n',
    'GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'GET /v2/ HTTP/9.9\r\n\r\n',
    '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
  ]) {
    const reply = await one(served, text)
    t.same([reply.status, reply.code], [400, 'BAD_REQUEST'], JSON.stringify(text.slice(0, 40)))
    t.match(reply.head, /^connection: close$/im)
  }
  const noHost = await one(served, 'GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n')
  t.same([noHost.status, noHost.code], [400, 'BAD_REQUEST'])
  nobodyHeard(t, served)
})

test('a head that is too large, too slow or never comes', async (t) => {
  const served = await serveFake(t)
  const large = await one(served, `GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Large: ${'x'.repeat(70_000)}\r\n\r\n`)
  t.same([large.status, large.code], [431, 'HEADERS_TOO_LARGE'])
  const full = `GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Large: ${'x'.repeat(60_000)}\r\n\r\n`
  t.equal((await one(served, full)).status, 200, 'tokens may be long')
  const endless = [
    'GET /v2/ HTTP/1.1\r\nX-Endless: ',
    ...Array.from({ length: 30 }, () => 'x'.repeat(100_000)),
  ]
  const answered = replies(await raw(served.port, ...endless))
  t.same(
    [answered.length, answered[0]?.code],
    [1, 'HEADERS_TOO_LARGE'],
    'also to a client that goes on sending',
  )
  const many = `GET /v2/ HTTP/1.1\r\nHost: x\r\n${Array.from({ length: 9000 }, (_, at) => `X-${at}: y\r\n`).join('')}\r\n`
  t.equal((await one(served, many)).status, 431)
  nobodyHeard(t, served)
  // Of its own, for so short a time may also be over before a large head was read.
  const impatient = await serveFake(t, { timeouts: { headersMs: 150, checkMs: 50 } })
  const slow = await one(impatient, 'GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ')
  t.same([slow.status, slow.code], [408, 'REQUEST_TIMEOUT'])
  t.equal((await one(impatient, '')).status, 408)
  nobodyHeard(t, impatient)
})

test('a peer that does not hang up after its answer is hung up on', async (t) => {
  const { port, lines } = await serveFake(t)
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  socket.on('error', () => undefined)
  socket.write('NONSENSE\r\n\r\n')
  const [answer] = (await once(socket, 'data')) as [Buffer]
  t.equal(replies(answer.toString())[0]?.status, 400)
  const more = setInterval(() => socket.write('MORE NONSENSE\r\n'), 50)
  await new Promise((resolve) => socket.once('close', resolve))
  clearInterval(more)
  t.same(
    lines.map(({ msg }) => msg),
    ['not a request'],
    'one complaint, however much more came',
  )
})

test('CONNECT is a method like any other that is not ours', async (t) => {
  const served = await serveFake(t)
  const reply = await one(served, 'CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n')
  t.same([reply.status, reply.code], [405, 'UNSUPPORTED'])
})

test('an Upgrade is not taken up', async (t) => {
  const served = await serveFake(t)
  const reply = await one(
    served,
    'GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n',
  )
  t.equal(reply.status, 200)
})

test('a body on GET or HEAD is refused, and no request is found in it', async (t) => {
  const served = await serveFake(t)
  const next = 'GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
  const smuggled = 'GET /v2/a/manifests/smuggled HTTP/1.1\r\nHost: x\r\n\r\n'
  const bodies = [
    `Content-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    `Transfer-Encoding: chunked\r\n\r\n${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
    'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  ]
  for (const target of ['/v2/', '/v2/a/manifests/b', '/livez']) {
    for (const body of bodies) {
      const all = replies(await raw(served.port, `GET ${target} HTTP/1.1\r\nHost: x\r\n${body}`, next))
      const [first, ...more] = all.map(({ status, code }) => [status, code])
      t.same(first, [400, 'BAD_REQUEST'])
      // The end of a chunked one nobody knows, unless it has come already: then the connection ends.
      const ends = /^connection: close$/im.test(all[0]?.head ?? '')
      if (body.startsWith('Content-Length')) t.notOk(ends)
      t.same(more, ends ? [] : [[200, undefined]])
    }
  }
  const head = await raw(
    served.port,
    `HEAD /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc`,
  )
  t.match(head, /^HTTP\/1\.1 400 [^]*\r\n\r\n$/)
  const empty = await call(`${served.url}/v2/`, { headers: { 'Content-Length': '0' } })
  t.equal(empty.status, 200, 'a length of nothing is no body')
  nobodyHeard(t, served)
})

test('a refused body is read up to a limit, then the connection ends', async (t) => {
  const served = await serveFake(t)
  const socket = await open(served.port)
  socket.on('error', () => undefined)
  let answer = ''
  socket.on('data', (chunk: Buffer) => (answer += chunk.toString()))
  socket.write('PATCH /v2/a/blobs/uploads/r1.x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n')
  const piece = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(1 << 20), Buffer.from('\r\n')])
  let sent = 0
  while (!socket.destroyed && sent < 64) {
    sent++
    if (!socket.write(piece))
      await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => undefined)
  }
  t.ok(sent < 64, `ended after ${sent} MiB`)
  t.equal(replies(answer)[0]?.code, 'UNSUPPORTED')
})

test('who waits for 100 Continue is refused without it', async (t) => {
  const served = await serveFake(t)
  const ask = (expect: string): string =>
    `PUT /v2/owned/x/manifests/1 HTTP/1.1\r\nHost: x\r\nExpect: ${expect}\r\nContent-Length: 5\r\n\r\n`
  const refused = await one(served, ask('100-continue'))
  t.same([refused.status, refused.code], [403, 'DENIED'])
  t.match(refused.head, /^connection: close$/im)
  const odd = await one(served, ask('coffee'))
  t.same([odd.status, odd.code], [417, 'EXPECTATION_FAILED'])
})

test('every write is put before the registry, by name and namespace', async (t) => {
  const { url, registry, repository } = await serveFake(t)
  const writes: [string, string][] = [
    ['PUT', '/manifests/latest'],
    ['DELETE', '/manifests/latest'],
    ['DELETE', `/blobs/${digest}`],
    ['POST', `/blobs/uploads/?mount=${digest}&from=b&ns=quay.io`],
    ['POST', '/blobs/uploads'],
    ['PATCH', '/blobs/uploads/r1.abc'],
    ['PUT', `/blobs/uploads/r1.abc?digest=${digest}`],
    ['GET', '/blobs/uploads/r1.abc'],
    ['DELETE', '/blobs/uploads/r1.abc'],
  ]
  for (const [method, path] of writes) {
    const body = method === 'GET' ? {} : { body: 'body' }
    const unsupported = await call(`${url}/v2/team/app${path}`, { method, ...body })
    t.same([unsupported.status, unsupported.code], [405, 'UNSUPPORTED'], `${method} ${path}`)
    const denied = await call(`${url}/v2/owned/app${path}`, { method, ...body })
    t.same([denied.status, denied.code], [403, 'DENIED'], `${method} ${path}`)
  }
  t.same(
    registry.calls.filter((made) => made.includes('quay.io')),
    ['pushTo team/app quay.io', 'pushTo owned/app quay.io'],
  )
  t.equal(registry.calls.length, 2 * writes.length)
  t.same(repository.calls, [])
})

test('whatever bytes come, the process lives and every answer is an error or proper', async (t) => {
  const served = await serveFake(t)
  const token = fc.constantFrom(
    'GET ',
    'HEAD ',
    'POST ',
    '/v2/',
    'a/manifests/b',
    ' HTTP/1.1\r\n',
    ' HTTP/1.0\r\n',
    'Host: x\r\n',
    'Content-Length: 3\r\n',
    'Transfer-Encoding: chunked\r\n',
    'Expect: 100-continue\r\n',
    'Connection: close\r\n',
    '\r\n',
    '0\r\n\r\n',
    'abc',
    '%',
  )
  const text = fc.array(fc.oneof({ weight: 6, arbitrary: token }, fc.string({ unit: 'binary' })), {
    maxLength: 14,
  })
  await fc.assert(
    fc.asyncProperty(text, async (pieces) => {
      const socket = await open(served.port)
      const chunks: Buffer[] = []
      socket.on('data', (chunk: Buffer) => chunks.push(chunk))
      socket.on('error', () => undefined)
      socket.end(pieces.join(''), 'latin1')
      await once(socket, 'close')
      const answer = Buffer.concat(chunks).toString('latin1')
      return answer === '' || /^HTTP\/1\.1 (200|4\d\d) /.test(answer)
    }),
    { numRuns: 150 },
  )
  t.equal((await call(`${served.url}/v2/`)).status, 200)
  t.notOk(
    served.lines.some(({ level }) => level >= 50),
    'nothing was a bug',
  )
})

test('a Host that is none, or two of them, is 400', async (t) => {
  const served = await serveFake(t)
  for (const host of [
    '',
    ' ',
    'a b',
    'a/b',
    'a@b',
    'a"b',
    '<x>',
    'a\\b',
    'a:b',
    'a:1:2',
    'a:65536',
    'a:99999',
    '[::1',
    '[1]',
    '[::::::]',
    '[127.0.0.1]',
    '::1',
    'ü',
    'a?b',
    'a#b',
  ]) {
    for (const version of ['1.0', '1.1']) {
      const text = `GET /v2/ HTTP/${version}\r\nHost: ${host}\r\nConnection: close\r\n\r\n`
      t.match(await one(served, text), { status: 400, code: 'BAD_REQUEST' }, `${version}: "${host}"`)
    }
  }
  const two = 'GET /v2/ HTTP/1.1\r\nHost: a\r\nhost: a\r\nConnection: close\r\n\r\n'
  t.match(await one(served, two), { status: 400, code: 'BAD_REQUEST' })
  for (const host of [
    'a',
    'A.example:',
    'a_b:5000',
    '[::1]',
    '[fe80::1]:5000',
    '127.0.0.1:65535',
    'xn--bcher-kva.example',
  ]) {
    const text = `GET /v2/ HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`
    t.equal((await one(served, text)).status, 200, host)
  }
  t.equal((await one(served, 'GET /v2/ HTTP/1.0\r\n\r\n')).status, 200, 'HTTP/1.0 knows none')
})

test('a target of the absolute form is served where its host is ours', async (t) => {
  const served = await serveFake(t, { publicUrl: 'https://mirror.example' })
  const { port } = served
  const ask = async (target: string, host = 'x') =>
    await one(served, `GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
  for (const base of [
    `http://127.0.0.1:${port}`,
    `HTTP://LOCALHOST:${port}`,
    `http://[::1]:${port}`,
    'https://mirror.example',
    'https://mirror.example:443',
  ]) {
    t.equal((await ask(`${base}/v2/`)).status, 200, base)
    const { status, code } = await ask(`${base}/v2/a/manifests/none?ns=docker.io`)
    t.same([status, code], [404, 'MANIFEST_UNKNOWN'])
    t.equal((await ask(base)).status, 200, 'without a path it is the root')
    t.equal((await ask(`${base}?x=1`)).status, 200)
    t.same((await ask(`${base}/v2/%zz/manifests/x`)).code, 'BAD_REQUEST')
  }
  t.ok(served.registry.calls.length > 0)
  served.registry.calls.length = 0
  for (const target of [
    'http://evil/v2/',
    `http://evil:${port}/v2/`,
    `http://127.0.0.1.evil:${port}/v2/`,
    `https://127.0.0.1:${port}/v2/`,
    `http://127.0.0.1:${port + 1}/v2/`,
    'http://mirror.example/v2/',
    `http://127.0.0.1:${port}@evil/v2/`,
    `ftp://127.0.0.1:${port}/v2/`,
    'http:///v2/',
    'http://',
  ]) {
    for (const host of ['x', '127.0.0.1', 'evil']) {
      const { status, code } = await ask(target, host)
      t.same([status, code], [400, 'BAD_REQUEST'], `${target} of ${host}`)
    }
  }
  t.same(served.registry.calls, [])
})

test('methods that nobody knows are one label of the metrics', async (t) => {
  const served = await serveFake(t)
  for (const method of ['PROPFIND', 'TRACE', 'MKCOL', 'LINK', 'M-SEARCH', 'GET']) {
    await one(served, `${method} /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
  }
  const text = await served.metrics.registry.metrics()
  const methods = new Set(
    [...text.matchAll(/http_request_duration_seconds_count\{method="([^"]+)"/g)].map((it) => it[1]),
  )
  t.same([...methods].sort(), ['GET', 'other'])
})

test('what stands behind an answer that ends the connection is over with it', async (t) => {
  const served = await serveFake(t)
  const head = (line: string, field: string): string => `${line} HTTP/1.1\r\nHost: x\r\n${field}\r\n\r\n`
  // Refused while its body comes. Behind a CONNECT nobody tells the others that the connection has gone.
  const chunks = [26_000, 15_000, 6_000].map((size) => `${size.toString(16)}\r\n${'z'.repeat(size)}\r\n`)
  const text = [
    ...[head('PUT /v2/', 'Transfer-Encoding: chunked'), ...chunks, '0\r\n\r\n'],
    ...[head('POST /v2/-/manifests/1', 'Content-Length: 145'), 'z'.repeat(145)],
    ...[head('TRACE /v2/', 'A: b'), head('CONNECT /v2/', 'A: b')],
  ]
  const socket = connect({ port: served.port, host: '127.0.0.1', allowHalfOpen: true })
  socket.on('error', () => undefined).on('end', () => socket.end())
  socket.resume().end(text.join(''))
  await once(socket, 'close')
  // A server that stops waits for whatever is not over.
  await served.server.close(60_000)
  t.ok(
    served.lines.some(({ msg }) => msg === 'client left'),
    'it was heard, and is over',
  )
})
