/** Pushing blobs, on the wire. */
import { once } from 'node:events'
import { Agent, request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { eventually, ownFolder } from '../../support/app.ts'
import { partialsIn } from '../../support/at-rest.ts'
import { FaultyFiles } from '../../support/faulty-files.ts'
import { randomBytesOf, ZERO_BLOB } from '../../support/images.ts'
import { raw, replies, type Reply } from '../../support/http-fakes.ts'
import { chunk, start, UPLOADS } from '../../support/http-uploads.ts'

const MiB = 1024 * 1024

test('a session begins with nothing, at a place of its own', async (t) => {
  const { ask, standing } = await start(t)
  const seen = new Set<string>()
  for (const path of [UPLOADS, UPLOADS.slice(0, -1), `${UPLOADS}?digest-algorithm=sha256`]) {
    const { status, headers, body } = await ask('POST', path)
    t.equal(status, 202)
    const id = String(headers['docker-upload-uuid'])
    t.match(headers, { location: `${UPLOADS}${id}`, range: '0-0', 'content-length': '0' })
    t.match(id, /^0\.[\w-]{22}$/)
    t.equal(body.length, 0)
    t.equal(await standing(`${UPLOADS}${id}`), '0-0')
    seen.add(id)
  }
  t.equal(seen.size, 3)
})

test('a blob is pushed by POST and PUT, and can be pulled from where the answer says', async (t) => {
  const { ask, begin } = await start(t)
  for (const size of [1, 1000, 3 * MiB]) {
    const content = randomBytesOf(size, size)
    const digest = digestOf(content)
    const location = await begin()
    const { status, headers, body } = await ask('PUT', `${location}?digest=${digest}`, {
      body: content,
      headers: { 'Content-Type': 'application/octet-stream', 'Content-Length': String(size) },
    })
    t.equal(status, 201)
    t.match(headers, {
      location: `/v2/team/app/blobs/${digest}`,
      'docker-content-digest': digest,
      'content-length': '0',
    })
    t.equal(body.length, 0)
    t.ok((await ask('GET', headers.location!)).body.equals(content))
    t.equal((await ask('GET', location)).code, 'BLOB_UPLOAD_UNKNOWN', 'the session is over')
  }
})

test('a blob is pushed by a single POST, or refused and nothing left of it', async (t) => {
  const { ask, pulled, mirror } = await start(t)
  const content = randomBytesOf(MiB + 5)
  const digest = digestOf(content)
  const wrong = await ask('POST', `${UPLOADS}?digest=${digestOf(Buffer.from('other'))}`, { body: content })
  t.same([wrong.status, wrong.code], [400, 'DIGEST_INVALID'])
  for (const bad of ['sha256:baddigeststring', 'blake3:1234', '']) {
    const refused = await ask('POST', `${UPLOADS}?digest=${bad}`, { body: content })
    t.same([refused.status, refused.code], [400, 'DIGEST_INVALID'])
  }
  t.same(partialsIn(mirror.root), [])
  const { status, headers } = await ask('POST', `${UPLOADS}?digest=${digest}`, { body: content })
  t.equal(status, 201)
  t.match(headers, { location: `/v2/team/app/blobs/${digest}`, 'docker-content-digest': digest })
  t.ok((await pulled(digest))?.equals(content))
})

test('a blob of no bytes is pushed by every way', async (t) => {
  for (const way of ['PUT', 'POST', 'PATCH'] as const) {
    const { ask, begin, pulled, mirror } = await start(t, { root: ownFolder(t) })
    const empty = { headers: { 'Content-Length': '0' } }
    const query = `?digest=${ZERO_BLOB.digest}`
    if (way === 'POST') t.equal((await ask('POST', `${UPLOADS}${query}`, empty)).status, 201)
    else {
      const location = await begin()
      if (way === 'PATCH') t.equal((await ask('PATCH', location, empty)).status, 202)
      t.equal((await ask('PUT', `${location}${query}`, empty)).status, 201)
    }
    t.equal((await pulled(ZERO_BLOB.digest))?.length, 0)
    const head = await ask('HEAD', `/v2/team/app/blobs/${ZERO_BLOB.digest}`)
    t.match(head, { status: 200, headers: { 'content-length': '0' } })
    await mirror.close()
  }
})

test('a blob is streamed by PATCH, of a length that nobody told', async (t) => {
  const { ask, begin, standing, pulled } = await start(t)
  const content = randomBytesOf(2 * MiB + 7)
  const location = await begin()
  for (const [from, to] of [
    [0, MiB],
    [MiB, content.length],
  ] as const) {
    const { status, headers } = await ask('PATCH', location, {
      body: content.subarray(from, to),
      headers: { 'Transfer-Encoding': 'chunked' },
    })
    t.equal(status, 202)
    t.match(headers, { location, range: `0-${to - 1}`, 'content-length': '0' })
    t.equal(headers['docker-upload-uuid'], location.slice(UPLOADS.length))
    t.equal(await standing(location), `0-${to - 1}`)
  }
  const digest = digestOf(content)
  t.equal(
    (await ask('PUT', `${location}?digest=${digest}`, { headers: { 'Content-Length': '0' } })).status,
    201,
  )
  t.ok((await pulled(digest))?.equals(content))
})

test('a blob comes in chunks, and the last one may come with the PUT', async (t) => {
  const { ask, begin, standing, pulled } = await start(t)
  for (const withRange of [true, false]) {
    const content = randomBytesOf(1000, String(withRange))
    const location = await begin()
    t.match((await ask('PATCH', location, chunk(content, 0, 0))).headers, { range: '0-0' })
    t.match((await ask('PATCH', location, chunk(content, 1, 499))).headers, { range: '0-499' })
    // Not as the specification has it, but as RFC 9110 would.
    const other = chunk(content, 500, 599, 'bytes ')
    t.match((await ask('PATCH', location, other)).headers, { range: '0-599' })
    t.equal(await standing(location), '0-599')
    const head = await ask('HEAD', location)
    t.match(head, { status: 204, headers: { range: '0-599', location } })
    const last = withRange ? chunk(content, 600, 999) : { body: content.subarray(600) }
    t.equal((await ask('PUT', `${location}?digest=${digestOf(content)}`, last)).status, 201)
    t.ok((await pulled(digestOf(content)))?.equals(content))
  }
})

test('a chunk that is out of order is refused with where to go on, and spoils nothing', async (t) => {
  const { ask, begin, standing, pulled } = await start(t)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const content = randomBytesOf(3 * MiB)
  const digest = digestOf(content)
  const location = await begin()
  await ask('PATCH', location, { ...chunk(content, 0, MiB - 1), agent })
  for (const [first, last] of [
    [0, MiB - 1],
    [MiB + 1, 2 * MiB],
    [2 * MiB, 3 * MiB - 1],
  ] as const) {
    for (const [method, path] of [
      ['PATCH', location],
      ['PUT', `${location}?digest=${digest}`],
    ] as const) {
      const refused = await ask(method, path, { ...chunk(content, first, last), agent })
      t.same([refused.status, refused.code], [416, 'RANGE_INVALID'])
      t.match(refused.headers, { location, range: `0-${MiB - 1}`, connection: 'keep-alive' })
      t.equal(await standing(location), `0-${MiB - 1}`)
    }
  }
  t.equal((await ask('PATCH', location, { ...chunk(content, MiB, 2 * MiB - 1), agent })).status, 202)
  t.equal(
    (await ask('PUT', `${location}?digest=${digest}`, chunk(content, 2 * MiB, 3 * MiB - 1))).status,
    201,
  )
  t.ok((await pulled(digest))?.equals(content))
})

test('a chunk whose length is not that of its range is refused before it is read', async (t) => {
  const { ask, begin, standing } = await start(t)
  const content = randomBytesOf(100)
  const location = await begin()
  for (const [range, status, code] of [
    ['0-98', 400, 'SIZE_INVALID'],
    ['0-100', 400, 'SIZE_INVALID'],
    ['99-0', 416, 'RANGE_INVALID'],
    ['0-', 400, 'BLOB_UPLOAD_INVALID'],
    ['bytes */100', 400, 'BLOB_UPLOAD_INVALID'],
    ['0-99999999999999999999', 400, 'BLOB_UPLOAD_INVALID'],
    ['nonsense', 400, 'BLOB_UPLOAD_INVALID'],
  ] as const) {
    const refused = await ask('PATCH', location, {
      body: content,
      headers: { 'Content-Range': range, 'Content-Length': '100' },
    })
    t.same([refused.status, refused.code], [status, code], range)
    t.equal(await standing(location), '0-0')
  }
  const streamed = await ask('PATCH', location, {
    body: content,
    headers: { 'Content-Range': '0-49', 'Transfer-Encoding': 'chunked' },
  })
  t.same([streamed.status, streamed.code], [400, 'SIZE_INVALID'])
  t.match(streamed.headers, { range: '0-0', location })
  t.equal((await ask('PATCH', location, chunk(content, 0, 49))).status, 202)
  for (const body of [content.subarray(50, 99), Buffer.concat([content.subarray(50), content])]) {
    const headers = { 'Content-Range': '50-99', 'Transfer-Encoding': 'chunked' }
    for (const [method, path] of [
      ['PATCH', location],
      ['PUT', `${location}?digest=${digestOf(content)}`],
    ] as const) {
      const refused = await ask(method, path, { body, headers })
      t.same([refused.status, refused.code], [400, 'SIZE_INVALID'])
      t.equal(await standing(location), '0-49', 'it leaves no byte')
    }
  }
  t.equal((await ask('PATCH', location, chunk(content, 50, 99))).status, 202)
  t.equal((await ask('PUT', `${location}?digest=${digestOf(content)}`)).status, 201)
})

test('of a large chunk that is refused only the answer is worth waiting for', async (t) => {
  const { begin, port, standing } = await start(t)
  const location = await begin()
  const size = 30 * MiB
  const answer = await raw(
    port,
    `PATCH ${location} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Range: 5-${size + 4}\r\nContent-Length: ${size}\r\n\r\n`,
    Buffer.alloc(MiB),
  )
  t.match(replies(answer), [{ status: 416, code: 'RANGE_INVALID', head: /connection: close/i }])
  t.equal(await standing(location), '0-0')
})

test('a PUT says which digest it is for, or the session goes on without it', async (t) => {
  const { ask, begin, standing } = await start(t)
  const content = randomBytesOf(1000)
  const location = await begin()
  await ask('PATCH', location, { body: content })
  for (const query of ['', '?digest=', '?digest=sha256:baddigeststring', '?digest=blake3:00', '?other=1']) {
    const refused = await ask('PUT', `${location}${query}`, { body: 'more' })
    t.same([refused.status, refused.code], [400, 'DIGEST_INVALID'], query)
    t.equal(await standing(location), '0-999')
  }
  const wrong = await ask('PUT', `${location}?digest=${digestOf(Buffer.from('other'))}`)
  t.same([wrong.status, wrong.code], [400, 'DIGEST_INVALID'])
  const after = await ask('PUT', `${location}?digest=${digestOf(content)}`)
  t.same([after.status, after.code], [404, 'BLOB_UPLOAD_UNKNOWN'], 'another digest ends it')
})

test('sha512 is taken, whether it was announced or not', async (t) => {
  const { ask, begin, pulled } = await start(t)
  for (const query of ['', '?digest-algorithm=sha512']) {
    const content = randomBytesOf(2 * MiB, query)
    const digest = digestOf(content, 'sha512')
    const location = await begin(query)
    t.equal((await ask('PUT', `${location}?digest=${digest}`, { body: content })).status, 201)
    t.ok((await pulled(digest))?.equals(content))
    const again = await ask('POST', `${UPLOADS}?digest=${digest}`, { body: content })
    t.match(again, { status: 201, headers: { 'docker-content-digest': digest } })
  }
  const unknown = await ask('POST', `${UPLOADS}?digest-algorithm=blake3`)
  t.same([unknown.status, unknown.code], [400, 'DIGEST_INVALID'])
})

test('a session that was given up, or never was, is unknown to every method', async (t) => {
  const { ask, begin, mirror } = await start(t)
  const location = await begin()
  await ask('PATCH', location, { body: randomBytesOf(1000) })
  t.equal((await ask('GET', location.replace('team/app', 'team/other'))).code, 'BLOB_UPLOAD_UNKNOWN')
  const cancelled = await ask('DELETE', location)
  t.same([cancelled.status, cancelled.body.length], [204, 0])
  t.same(partialsIn(mirror.root), [])
  for (const path of [location, `${UPLOADS}0.aaaaaaaaaaaaaaaaaaaaaa`, `${UPLOADS}x.y`]) {
    for (const method of ['GET', 'PATCH', 'PUT', 'DELETE']) {
      const answer = await ask(method, `${path}?digest=${ZERO_BLOB.digest}`)
      t.equal(answer.status, 404, `${method} ${path}`)
    }
  }
})

test('a blob of another repository is mounted, and what cannot be is uploaded', async (t) => {
  const { ask, pulled } = await start(t)
  const content = randomBytesOf(1000)
  const digest = digestOf(content)
  await ask('POST', `/v2/team/base/blobs/uploads/?digest=${digest}`, { body: content })
  for (const query of [
    `mount=${digest}`,
    `mount=${digest}&from=team/nothing`,
    `mount=${ZERO_BLOB.digest}&from=team/base`,
  ]) {
    const { status, headers } = await ask('POST', `${UPLOADS}?${query}`)
    t.equal(status, 202, query)
    t.match(headers, { location: /^\/v2\/team\/app\/blobs\/uploads\/0\./, range: '0-0' })
  }
  t.equal(await pulled(digest), undefined)
  for (const [query, code] of [
    ['mount=nonsense&from=team/base', 'DIGEST_INVALID'],
    [`mount=${digest}&from=Team/Base`, 'NAME_INVALID'],
  ] as const) {
    const refused = await ask('POST', `${UPLOADS}?${query}`)
    t.same([refused.status, refused.code], [400, code])
  }
  const mounted = await ask('POST', `${UPLOADS}?mount=${digest}&from=team/base`)
  t.equal(mounted.status, 201)
  t.match(mounted.headers, {
    location: `/v2/team/app/blobs/${digest}`,
    'docker-content-digest': digest,
    'content-length': '0',
  })
  t.ok((await pulled(digest))?.equals(content))
})

/** Sends a head that waits for leave; the body only when it is given. The answers, without the leave. */
async function expectant(
  port: number,
  head: string,
  body: Buffer,
): Promise<{ asked: boolean; text: string }> {
  const socket = connect({ port, host: '127.0.0.1' })
  let text = ''
  let asked = false
  socket.setEncoding('latin1')
  socket.on('data', (data: string) => {
    text += data
    if (!asked && text.startsWith('HTTP/1.1 100 Continue\r\n\r\n')) {
      asked = true
      text = text.slice('HTTP/1.1 100 Continue\r\n\r\n'.length)
      socket.write(body)
    }
  })
  socket.write(
    `${head} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: ${body.length}\r\n`,
  )
  socket.write('\r\n')
  await once(socket, 'close')
  return { asked, text }
}

test('a body is asked for when it will be read, and not before', async (t) => {
  const { begin, port } = await start(t)
  const content = randomBytesOf(100_000)
  const digest = digestOf(content)
  const location = await begin()
  const other = digestOf(Buffer.from('other'))
  const refusals = [
    [`PATCH ${UPLOADS}0.aaaaaaaaaaaaaaaaaaaaaa`, 404, 'BLOB_UPLOAD_UNKNOWN'],
    [`PATCH ${location.replace('/v2/team/', '/v2/library/')}`, 403, 'DENIED'],
    [`POST /v2/library/app/blobs/uploads/?digest=${digest}`, 403, 'DENIED'],
    [`PUT ${location}`, 400, 'DIGEST_INVALID'],
    [`PATCH ${location} HTTP/1.1\r\nContent-Range: 1-100000\r\nX-Rest:`, 416, 'RANGE_INVALID'],
    [`PATCH ${location} HTTP/1.1\r\nContent-Range: 0-1\r\nX-Rest:`, 400, 'SIZE_INVALID'],
  ] as const
  for (const [head, status, code] of refusals) {
    const { asked, text } = await expectant(port, head, content)
    t.notOk(asked, head)
    t.match(replies(text), [{ status, code }])
  }
  for (const [head, status] of [
    [`PATCH ${location}`, 202],
    [`PUT ${location}?digest=${digestOf(Buffer.concat([content, content]))}`, 201],
    [`POST ${UPLOADS}?digest=${digest}`, 201],
    [`POST ${UPLOADS}?digest=${other}`, 400],
  ] as const) {
    const { asked, text } = await expectant(port, head, content)
    t.ok(asked, head)
    t.match(replies(text), [{ status }])
  }
})

test('of a client that leaves in the middle, what it sent is kept, and another goes on from there', async (t) => {
  const { ask, begin, standing, pulled, mirror } = await start(t)
  const content = randomBytesOf(2 * MiB)
  const digest = digestOf(content)
  const location = await begin()
  const outgoing = httpRequest(`${mirror.url}${location}`, { method: 'PATCH' })
  outgoing.on('error', () => undefined)
  outgoing.write(content.subarray(0, MiB))
  await eventually('all of it is here', async () => (await standing(location)) === `0-${MiB - 1}`)
  outgoing.destroy()
  const rest = await ask('PATCH', location, chunk(content, MiB, 2 * MiB - 1))
  t.equal(rest.status, 202)
  t.equal((await ask('PUT', `${location}?digest=${digest}`)).status, 201)
  t.ok((await pulled(digest))?.equals(content))
})

test('a client that sends nothing for too long is left, and its session is not', async (t) => {
  const { begin, port, standing } = await start(t, { timeouts: { idleMs: 1000 } })
  // Where the machine is busy, so short a time may be over before any of it was read: of questions as well.
  const patiently = <T>(ask: () => Promise<T>): Promise<T> => ask().catch(() => patiently(ask))
  const location = await patiently(begin)
  const head = `PATCH ${location} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n`
  await eventually('what it sent has come', async () => {
    t.equal(await raw(port, head, Buffer.alloc(400)), '', 'the connection is closed')
    return (await patiently(() => standing(location))) !== '0-0'
  })
  t.equal(await patiently(() => standing(location)), '0-399')
})

test('a body that is no body ends its request, and nothing waits for it', async (t) => {
  const { ask, begin, port } = await start(t)
  const location = await begin()
  const head = `PATCH ${location} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n`
  t.equal(await raw(port, head, '5\r\n12345\r\n', 'no length\r\n'), '')
  t.match(await ask('PATCH', location, { body: '67890' }), { status: 202, headers: { range: '0-9' } })
  t.equal((await ask('PUT', `${location}?digest=${digestOf(Buffer.from('1234567890'))}`)).status, 201)
})

test('a session goes on after the program was started again', async (t) => {
  const root = t.testdir()
  const before = await start(t, { root })
  const content = randomBytesOf(2 * MiB)
  const digest = digestOf(content)
  const location = await before.begin()
  const fresh = await before.begin()
  await before.ask('PATCH', location, chunk(content, 0, MiB - 1))
  await before.mirror.close()
  const after = await start(t, { root })
  t.equal(await after.standing(location), `0-${MiB - 1}`)
  t.equal(await after.standing(fresh), '0-0')
  t.equal(
    (await after.ask('PUT', `${location}?digest=${digest}`, chunk(content, MiB, 2 * MiB - 1))).status,
    201,
  )
  t.ok((await after.pulled(digest))?.equals(content))
})

test('no upload goes to a namespace of an upstream', async (t) => {
  const { ask, begin } = await start(t)
  const location = await begin()
  for (const [method, path] of [
    ['POST', UPLOADS],
    ['PATCH', location],
    ['GET', location],
  ] as const) {
    t.equal((await ask(method, `${path}?ns=docker.io`)).status, 403)
    t.equal((await ask(method, `${path}?ns=example.org`)).code, 'NAME_UNKNOWN')
  }
})

test('of a single POST that the disk does not take nothing is left', async (t) => {
  const disk = new FaultyFiles()
  const { mirror, ask } = await start(t, { files: disk.files })
  const content = randomBytesOf(3 * MiB)
  const push = (): Promise<Reply> => ask('POST', `${UPLOADS}?digest=${digestOf(content)}`, { body: content })
  disk.room = MiB
  const refused = await push()
  t.same([refused.status, refused.code], [507, 'INSUFFICIENT_STORAGE'])
  disk.heal()
  t.same(partialsIn(mirror.root), [])
  disk.failing.set('rename', 'ENOSPC')
  t.equal((await push()).status, 507)
  disk.heal()
  t.same(partialsIn(mirror.root), [])
  t.equal((await push()).status, 201)
})

test('when the disk is full a client is told so, and goes on when there is room', async (t) => {
  const disk = new FaultyFiles()
  const { ask, begin, standing, pulled } = await start(t, { files: disk.files })
  const content = randomBytesOf(3 * MiB)
  const digest = digestOf(content)
  const location = await begin()
  t.equal((await ask('PATCH', location, chunk(content, 0, MiB - 1))).status, 202)
  disk.room = 0
  const refused = await ask('PATCH', location, chunk(content, MiB, 3 * MiB - 1))
  t.same([refused.status, refused.code], [507, 'INSUFFICIENT_STORAGE'])
  t.equal(await standing(location), `0-${MiB - 1}`)
  disk.heal()
  t.equal((await ask('PUT', `${location}?digest=${digest}`, chunk(content, MiB, 3 * MiB - 1))).status, 201)
  t.ok((await pulled(digest))?.equals(content))
})
