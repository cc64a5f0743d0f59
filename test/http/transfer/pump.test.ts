/** Buffers: none is used twice at once, none is lost. */
import { once } from 'node:events'
import { test } from 'tap'
import type { ServerResponse } from 'node:http'
import { BufferPool } from '../../../src/http/transfer/buffer-pool.ts'
import { pump } from '../../../src/http/transfer/pump.ts'
import { call, serveFake } from '../../support/http-fakes.ts'

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

/** A response that takes a write only when it is told to. */
class Reluctant {
  readonly pending: (() => void)[] = []

  write(_bytes: Buffer, taken: () => void): void {
    this.pending.push(taken)
  }
}

test('many slow clients share few big buffers, and growing bodies use none', async (t) => {
  const length = 64 * 1024 * 1024
  for (const growing of [false, true]) {
    const pool = new BufferPool()
    const leave = new AbortController()
    const sizes: number[] = []
    const source = {
      read: async (buffer: Buffer) => sizes.push(buffer.length) && buffer.length,
      [Symbol.asyncDispose]: async () => undefined,
    }
    const { signal } = leave
    const all = Array.from({ length: 100 }, () =>
      pump(source, new Reluctant() as unknown as ServerResponse, pool, {
        length,
        growing,
        signal,
        onBytes: () => undefined,
      }),
    )
    await new Promise((resolve) => setImmediate(resolve))
    t.equal(sizes.length, growing ? 200 : 100, 'each has read what its buffers hold, and no more')
    t.equal(sizes.filter((size) => size > 65536).length, growing ? 0 : 16)
    leave.abort(new Error('left'))
    const ends = await Promise.allSettled(all)
    t.ok(ends.every(({ status }) => status === 'rejected'))
    t.equal(pool.lent, 0)
  }
})

test('a client that was slow gets small pieces until it has been quick for a while', async (t) => {
  const sizes: number[] = []
  const pool = new BufferPool()
  const response = new Reluctant()
  const source = {
    read: async (buffer: Buffer) => sizes.push(buffer.length) && buffer.length,
    [Symbol.asyncDispose]: async () => undefined,
  }
  const leave = new AbortController()
  let time = 0
  const done = pump(source, response as unknown as ServerResponse, pool, {
    length: 1 << 30,
    growing: false,
    signal: leave.signal,
    onBytes: () => undefined,
    now: () => time,
  })
  const takeAfter = async (ms: number): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve))
    time += ms
    response.pending.shift()?.()
    await new Promise((resolve) => setImmediate(resolve))
  }
  await takeAfter(99)
  await takeAfter(110)
  for (let piece = 0; piece < 16; piece++) await takeAfter(6)
  await takeAfter(1000)
  const small = Array.from({ length: 16 }, () => 65536)
  t.same(sizes, [1 << 20, 1 << 20, ...small, 1 << 20, 65536])
  leave.abort(new Error('left'))
  await t.rejects(done)
})

for (const length of [1000, 65536, 200_000]) {
  test(`pieces smaller than asked for do not overwrite what is still on its way (${length} bytes)`, async (t) => {
    const bytes = Buffer.from(Array.from({ length }, (_, at) => at % 251))
    let at = 0
    const source = {
      read: async (buffer: Buffer) => {
        const count = bytes.copy(buffer, 0, at, at + 99)
        at += count
        return count
      },
      [Symbol.asyncDispose]: async () => undefined,
    }
    // The kernel looks at the bytes as late as it may.
    const arrived: Buffer[] = []
    const response = {
      write: (piece: Buffer, taken: () => void) =>
        setImmediate(() => {
          arrived.push(Buffer.from(piece))
          taken()
        }),
    }
    const options = { length, signal: new AbortController().signal, onBytes: () => undefined }
    for (const growing of [true, false]) {
      at = 0
      arrived.length = 0
      await pump(source, response as unknown as ServerResponse, new BufferPool(), { ...options, growing })
      t.ok(Buffer.concat(arrived).equals(bytes))
    }
  })
}

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
