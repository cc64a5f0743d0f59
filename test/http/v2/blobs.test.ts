/** GET and HEAD of blobs: whole, in parts, and while they are still coming in. */
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { test } from 'tap'
import { OciError } from '../../../src/oci/errors.ts'
import { call, open, raw, serveFake } from '../../support/http-fakes.ts'

const BLOB = Buffer.from(Array.from({ length: 3_000_000 }, (_, at) => (at * 7 + (at >> 8)) & 255))
const SMALL = BLOB.subarray(0, 2048)

test('a whole blob has its length, its digest and its tag, on HEAD too', async (t) => {
  const { url, repository, line } = await serveFake(t)
  const digest = repository.addBlob(BLOB)
  const path = `${url}/v2/library/alpine/blobs/${digest}`
  const get = await call(path)
  t.equal(get.status, 200)
  t.ok(get.body.equals(BLOB))
  t.match(get.headers, {
    'content-type': 'application/octet-stream',
    'content-length': String(BLOB.length),
    'docker-content-digest': digest,
    etag: `"${digest}"`,
    'accept-ranges': 'bytes',
    'x-cache': 'hit',
  })
  const head = await call(path, { method: 'HEAD', headers: { Range: 'bytes=0-5' } })
  t.equal(head.status, 200)
  t.equal(head.body.length, 0)
  const without = (headers: object): object => ({ ...headers, date: '', 'x-request-id': '' })
  t.same(without(head.headers), without(get.headers))
  t.same(repository.calls, [`blob ${digest}`, `headBlob ${digest}`])
  t.match(await line(0), { route: 'blob', digest, bytes: BLOB.length, status: 200 })
  t.equal(repository.answersOpen, 0)
})

test('an empty blob is an empty answer', async (t) => {
  const { url, repository } = await serveFake(t)
  const digest = repository.addBlob(Buffer.alloc(0))
  const path = `${url}/v2/a/blobs/${digest}`
  for (const method of ['GET', 'HEAD']) {
    const reply = await call(path, { method })
    t.equal(reply.status, 200)
    t.equal(reply.headers['content-length'], '0')
    t.equal(reply.body.length, 0)
  }
  const ranged = await call(path, { headers: { Range: 'bytes=0-' } })
  t.equal(ranged.status, 200)
  t.equal(ranged.headers['content-length'], '0')
})

test('a range gets exactly its bytes', async (t) => {
  const { url, repository } = await serveFake(t)
  const digest = repository.addBlob(SMALL)
  const path = `${url}/v2/a/blobs/${digest}`
  const cases: [string, number, number][] = [
    ['bytes=500-1499', 500, 1500],
    ['bytes=500-', 500, 2048],
    ['bytes=-500', 1548, 2048],
    ['bytes=2000-5000', 2000, 2048],
    ['bytes=0-0', 0, 1],
  ]
  for (const [range, start, end] of cases) {
    const reply = await call(path, { headers: { Range: range } })
    t.equal(reply.status, 206, range)
    t.ok(reply.body.equals(SMALL.subarray(start, end)), range)
    t.equal(reply.headers['content-range'], `bytes ${start}-${end - 1}/2048`)
    t.equal(reply.headers['content-length'], String(end - start))
    t.equal(reply.headers['docker-content-digest'], digest)
  }
  t.same(
    repository.opened,
    cases.map(([, start, end]) => ({ start, end })),
  )
  t.same(repository.ranged, [true, true, true, true, true])
})

test('a range that is all of the blob is opened as the whole', async (t) => {
  const { url, repository } = await serveFake(t)
  const path = `${url}/v2/a/blobs/${repository.addBlob(SMALL)}`
  for (const range of ['bytes=0-', 'bytes=0-2047', 'bytes=-2048']) {
    const reply = await call(path, { headers: { Range: range } })
    t.equal(reply.status, 206)
    t.equal(reply.headers['content-range'], 'bytes 0-2047/2048')
    t.ok(reply.body.equals(SMALL))
  }
  t.same(repository.opened, [undefined, undefined, undefined])
  t.same(repository.ranged, [false, true, true], 'only bytes=0- is known to be no part before the size is')
})

test('what cannot be satisfied is 416, with the size and nothing of the blob', async (t) => {
  const { url, repository } = await serveFake(t)
  const path = `${url}/v2/a/blobs/${repository.addBlob(SMALL)}`
  for (const range of ['bytes=500-0', 'bytes=5000-10000', 'bytes=2048-', 'bytes=-0']) {
    const reply = await call(path, { headers: { Range: range } })
    t.equal(reply.status, 416, range)
    t.equal(reply.code, 'RANGE_INVALID')
    t.equal(reply.headers['content-range'], 'bytes */2048')
    t.equal(reply.headers['content-type'], 'application/json')
    t.equal(reply.headers['accept-ranges'], undefined)
  }
  t.same(repository.opened, [])
  t.equal(repository.answersOpen, 0)
  for (const range of ['bytes=a-b', 'lines=1-2', `bytes=${'1-1,'.repeat(2000)}`, 'bytes=0-2047,0-0']) {
    const reply = await call(path, { headers: { Range: range } })
    t.equal(reply.status, 200, range.slice(0, 20))
    t.ok(reply.body.equals(SMALL))
  }
})

test('multiRangeClient: several ranges come as parts, in the order they were asked for', async (t) => {
  const { url, repository, line } = await serveFake(t)
  const digest = repository.addBlob(SMALL)
  const reply = await call(`${url}/v2/a/blobs/${digest}`, { headers: { Range: 'bytes=100-199, 0-9,-3' } })
  t.equal(reply.status, 206)
  const boundary = /^multipart\/byteranges; boundary=([0-9a-f]{32})$/.exec(
    reply.headers['content-type'] ?? '',
  )?.[1]
  t.ok(boundary)
  t.equal(reply.headers['content-length'], String(reply.body.length))
  t.equal(reply.headers['content-range'], undefined)
  t.equal(reply.headers['docker-content-digest'], digest)
  const part = (start: number, end: number): string =>
    `--${String(boundary)}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ${start}-${end - 1}/2048\r\n\r\n` +
    `${SMALL.subarray(start, end).toString('latin1')}\r\n`
  t.equal(
    reply.body.toString('latin1'),
    `${part(100, 200)}${part(0, 10)}${part(2045, 2048)}--${String(boundary)}--\r\n`,
  )
  t.match(await line(0), { bytes: reply.body.length })
  t.equal(repository.sourcesOpen, 0)
})

test('If-Range with another tag gets the whole blob', async (t) => {
  const { url, repository } = await serveFake(t)
  const digest = repository.addBlob(SMALL)
  const path = `${url}/v2/a/blobs/${digest}`
  const status = async (tag: string): Promise<number> =>
    (await call(path, { headers: { Range: 'bytes=1-2', 'If-Range': tag } })).status
  t.equal(await status(`"${digest}"`), 206)
  t.equal(await status('"sha256:other"'), 200)
  t.equal(await status(`W/"${digest}"`), 200)
  t.equal(await status('Wed, 21 Oct 2015 07:28:00 GMT'), 200)
})

test('who has it already gets 304, if it may be read at all', async (t) => {
  const { url, repository } = await serveFake(t)
  const digest = repository.addBlob(SMALL)
  const headers = { 'If-None-Match': `"${digest}"`, Range: 'bytes=0-5' }
  for (const method of ['GET', 'HEAD']) {
    const reply = await call(`${url}/v2/a/blobs/${digest}`, { method, headers })
    t.equal(reply.status, 304)
    t.equal(reply.headers.etag, `"${digest}"`)
  }
  repository.blobs.clear()
  t.equal((await call(`${url}/v2/a/blobs/${digest}`, { headers })).code, 'BLOB_UNKNOWN')
  t.equal((await call(`${url}/v2/a/blobs/${digest}`)).code, 'BLOB_UNKNOWN')
  t.equal((await call(`${url}/v2/a/blobs/${digest}`, { method: 'HEAD' })).status, 404)
})

test('until the head may be sent, a failure is an answer', async (t) => {
  const { url, repository } = await serveFake(t)
  const path = `${url}/v2/a/blobs/${repository.addBlob(SMALL)}`
  repository.openError = new OciError('BAD_GATEWAY')
  for (const range of [undefined, 'bytes=0-5', 'bytes=0-5,7-8']) {
    const reply = await call(path, { headers: range === undefined ? {} : { Range: range } })
    t.equal(reply.status, 502)
    t.equal(reply.code, 'BAD_GATEWAY')
    t.equal(reply.headers['content-range'], undefined)
    t.equal(reply.headers.etag, undefined)
  }
  t.equal(repository.answersOpen, 0)
})

test('the head arrives before the first byte is there', async (t) => {
  const { url, repository } = await serveFake(t)
  repository.behaviour = { stallAt: 0 }
  const outgoing = request(`${url}/v2/a/blobs/${repository.addBlob(SMALL)}`, { agent: false })
  outgoing.on('error', () => undefined)
  outgoing.end()
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  t.equal(incoming.headers['content-length'], '2048')
  incoming.on('error', () => undefined)
  outgoing.destroy()
})

test('a source that fails on the way breaks the transfer off, known length or not', async (t) => {
  const { url, repository, line } = await serveFake(t)
  const path = `${url}/v2/a/blobs/${repository.addBlob(BLOB)}`
  let nth = 0
  for (const unverified of [false, true]) {
    for (const unknownSize of [false, true]) {
      for (const behaviour of [{ failAt: 1_000_000 }, ...(unknownSize ? [] : [{ endAt: 1_000_000 }])]) {
        Object.assign(repository, { behaviour, unknownSize, unverified })
        await t.rejects(
          call(path),
          { code: 'ECONNRESET' },
          JSON.stringify({ behaviour, unknownSize, unverified }),
        )
        t.match(await line(nth++), { msg: 'broken off', status: 200, bytes: 1_000_000 })
        t.equal(repository.sourcesOpen + repository.answersOpen, 0)
      }
    }
  }
  t.not(nth, 0)
})

test('a body whose length nobody knows is chunked, and its ranges are ignored', async (t) => {
  const { url, repository } = await serveFake(t)
  repository.unknownSize = true
  repository.unverified = true
  const digest = repository.addBlob(BLOB)
  const reply = await call(`${url}/v2/a/blobs/${digest}`, { headers: { Range: 'bytes=5-9' } })
  t.equal(reply.status, 200)
  t.equal(reply.headers['transfer-encoding'], 'chunked')
  t.equal(reply.headers['content-length'], undefined)
  t.equal(reply.headers['accept-ranges'], undefined)
  t.equal(reply.headers['docker-content-digest'], digest)
  t.ok(reply.body.equals(BLOB))
})

test('HTTP/1.0 gets such a body up to the end of the connection, and a reset when it fails', async (t) => {
  const { port, repository } = await serveFake(t)
  repository.unknownSize = true
  const ask = `GET /v2/a/blobs/${repository.addBlob(SMALL)} HTTP/1.0\r\n\r\n`
  const whole = await raw(port, ask)
  t.notMatch(whole, /transfer-encoding|content-length/i)
  t.ok(whole.endsWith(`\r\n\r\n${SMALL.toString('latin1')}`))

  repository.behaviour = { failAt: 1000 }
  const socket = await open(port)
  socket.resume()
  socket.write(ask)
  const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
  t.equal(error.code, 'ECONNRESET')
})

test('a part of a download that is not verified is marked in the log, a whole blob is not', async (t) => {
  const { url, repository, line } = await serveFake(t)
  repository.unverified = true
  repository.cache = 'join'
  const path = `${url}/v2/a/blobs/${repository.addBlob(BLOB)}`
  t.ok((await call(path)).body.equals(BLOB))
  t.ok(
    (await call(path, { headers: { Range: 'bytes=70000-2999990' } })).body.equals(
      BLOB.subarray(70000, 2999991),
    ),
  )
  t.equal((await line(0))['unverified'], undefined)
  t.match(await line(1), { unverified: true, cache: 'join' })
})

test('every way of reading gives the same bytes, however small the pieces', async (t) => {
  const { url, repository } = await serveFake(t)
  const digest = repository.addBlob(BLOB)
  for (const unverified of [false, true]) {
    for (const chunk of [7919, 65536, 65537, 1 << 20, Infinity]) {
      Object.assign(repository, { unverified, behaviour: { chunk } })
      t.ok((await call(`${url}/v2/a/blobs/${digest}`)).body.equals(BLOB), `${String(unverified)} ${chunk}`)
    }
  }
})

test('a body that is still coming in is read with small buffers, a finished one with big ones', async (t) => {
  const { url, repository } = await serveFake(t)
  const path = `${url}/v2/a/blobs/${repository.addBlob(BLOB)}`
  repository.unverified = true
  await call(path)
  t.equal(repository.largestBuffer, 65536)
  repository.unverified = false
  await call(path)
  t.equal(repository.largestBuffer, 1 << 20)
})

test('pulls and bytes are counted by where they came from', async (t) => {
  const { url, repository, metrics, line } = await serveFake(t)
  repository.cache = 'join'
  const path = `${url}/v2/a/blobs/${repository.addBlob(SMALL)}`
  await call(path)
  await call(path, { headers: { Range: 'bytes=0-99' } })
  await call(path, { method: 'HEAD' })
  await line(2)
  const text = await metrics.registry.metrics()
  t.match(text, /entrepot_pulls_total\{upstream="docker.io",kind="blob",cache="join"\} 2\n/)
  t.match(text, /entrepot_served_bytes_total\{kind="blob",cache="join"\} 2148\n/)
})

test('what fails in cleaning up after a whole answer is logged, and the answer stays whole', async (t) => {
  const { url, repository, line } = await serveFake(t)
  const digest = repository.addBlob(SMALL)
  const blob = repository.blob.bind(repository)
  repository.unknownSize = true
  repository.blob = async (...all) => {
    const answer = await blob(...all)
    return answer && { ...answer, [Symbol.asyncDispose]: async () => Promise.reject(new Error('not closed')) }
  }
  const reply = await call(`${url}/v2/a/blobs/${digest}`)
  t.ok(reply.body.equals(SMALL))
  t.match(await line(0), { level: 50, status: 200, err: { message: 'not closed' } })
})
