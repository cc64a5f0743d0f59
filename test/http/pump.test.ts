/** Buffers: none is used twice at once, none is lost. */
import { once } from 'node:events'
import { test } from 'tap'
import { BufferPool } from '../../src/http/pump.ts'
import { call, serveFake } from './fakes.ts'

test('the pool lends a limited number of big buffers and takes them back', (t) => {
  const pool = new BufferPool()
  const lent: Buffer[] = []
  for (let buffer = pool.take(); buffer; buffer = pool.take()) lent.push(buffer)
  t.equal(lent.length, 16)
  t.equal(new Set(lent).size, 16)
  const [first, second] = lent
  pool.giveBack(first!, true)
  t.equal(pool.take(), first)
  pool.giveBack(second!, false)
  t.not(pool.take(), second, 'what may still be in use is not lent again')
  t.end()
})

test('many readers at once all get their own bytes', async (t) => {
  const { url, repository } = await serveFake(t)
  const blobs = Array.from({ length: 24 }, (_, at) => Buffer.alloc(3_000_000, `blob ${at} `))
  for (const unverified of [false, true]) {
    repository.unverified = unverified
    const bodies = await Promise.all(
      blobs.map(async (bytes) => (await call(`${url}/v2/a/blobs/${repository.addBlob(bytes)}`)).body),
    )
    t.ok(bodies.every((body, at) => body.equals(blobs[at]!)))
  }
})

test('a source that gives more than was promised is cut at the promise', async (t) => {
  const { url, repository } = await serveFake(t)
  const bytes = Buffer.alloc(100_000, 'abc')
  const digest = repository.addBlob(bytes)
  repository.blob = async () => ({
    digest,
    size: 1000,
    cache: 'hit',
    unverified: false,
    open: async () => ({
      read: async (buffer) => bytes.copy(buffer),
      [Symbol.asyncDispose]: async () => undefined,
    }),
    [Symbol.asyncDispose]: async () => undefined,
  })
  const { body } = await call(`${url}/v2/a/blobs/${digest}`)
  t.ok(body.equals(bytes.subarray(0, 1000)))
})

test('a read that is under way when the client leaves is told so', async (t) => {
  const { port, repository, line } = await serveFake(t)
  repository.behaviour = { stallAt: 0 }
  const { connect } = await import('node:net')
  const socket = connect(port, '127.0.0.1')
  socket.write(`GET /v2/a/blobs/${repository.addBlob(Buffer.alloc(10))} HTTP/1.1\r\nHost: x\r\n\r\n`)
  await once(socket, 'data')
  socket.destroy()
  t.match(await line(0), { msg: 'client left', bytes: 0 })
  t.equal(repository.sourcesOpen, 0)
})
