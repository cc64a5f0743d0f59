/** A file that grows by hand, sent by the kernel to a client that counts. */
import { once } from 'node:events'
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { request } from 'undici'
import { openLinuxSyscalls } from '../../../src/http/transfer/linux-syscalls.ts'
import { BufferPool } from '../../../src/http/transfer/buffer-pool.ts'
import { sendGrowing } from '../../../src/http/transfer/sendfile.ts'
import type { GrowingRange, StoredRange } from '../../../src/storage/blobs/blob-store.ts'
import { randomBytesOf } from '../../support/images.ts'
import '../../support/folders-last.ts'

const KiB = 1024
const BYTES = randomBytesOf(4 * 1024 * KiB, 'growing')

/** What of it is in the file so far is what can be had of it. */
class Growing implements GrowingRange {
  readonly #descriptor: number
  #position = 0
  #there = 0
  #changed = Promise.withResolvers<undefined>()
  /** What it has to say instead, when everything was given out. */
  end: 'wait' | 'nothing' | 'elsewhere' | Error = 'wait'

  constructor(descriptor: number) {
    this.#descriptor = descriptor
  }

  grow(count: number): void {
    writeSync(this.#descriptor, BYTES, this.#there, count, this.#there)
    this.#there += count
    this.change(this.end)
  }

  change(end: Growing['end']): void {
    this.end = end
    this.#changed.resolve(undefined)
    this.#changed = Promise.withResolvers()
  }

  async there(): Promise<StoredRange | undefined> {
    while (this.#position === this.#there && this.end === 'wait') await this.#changed.promise
    if (this.#position === this.#there) {
      if (this.end instanceof Error) throw this.end
      if (this.end === 'elsewhere') return undefined
    }
    const read = (buffer: Buffer, position: number): Promise<number> =>
      Promise.resolve(readSync(this.#descriptor, buffer, 0, buffer.length, position))
    return { descriptor: this.#descriptor, start: this.#position, end: this.#there, read }
  }

  took(count: number): void {
    this.#position += count
  }
}

interface Sent {
  readonly source: Growing
  readonly outcome: Promise<number>
  /** Resolves when the client has so many bytes. */
  readonly reached: (bytes: number) => Promise<void>
  readonly body: () => Buffer
  readonly counted: () => number
}

/** @param idleMs after which the response gives up */
async function send(t: Test, copying: boolean, length: number, idleMs = 10_000): Promise<Sent> {
  const kernel = await openLinuxSyscalls()
  if (kernel === undefined) throw new Error('there is no FFI here')
  const descriptor = openSync(path.join(t.testdir(), 'file'), 'wx+')
  t.teardown(() => closeSync(descriptor))
  const source = new Growing(descriptor)
  const outcome = Promise.withResolvers<number>()
  outcome.promise.catch(() => undefined)
  let counted = 0
  const server = createServer((_request, response: ServerResponse) => {
    const leave = new AbortController()
    response.on('close', () => leave.abort(new Error('the client has left')))
    response.setTimeout(idleMs, () => response.destroy())
    response.writeHead(200, { 'content-length': BYTES.length })
    response.flushHeaders()
    const onBytes = (count: number): void => void (counted += count)
    const options = { kernel, copying, pool: new BufferPool(), signal: leave.signal, onBytes }
    sendGrowing(source, length, response, options).then(outcome.resolve, outcome.reject)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const { body } = await request(`http://127.0.0.1:${port}`)
  const chunks: Buffer[] = []
  let bytes = 0
  body.on('data', (chunk: Buffer) => {
    chunks.push(chunk)
    bytes += chunk.length
  })
  body.on('error', () => undefined)
  const reached = async (count: number): Promise<void> => {
    while (bytes < count) await once(body, 'data')
  }
  return {
    source,
    outcome: outcome.promise,
    reached,
    body: () => Buffer.concat(chunks),
    counted: () => counted,
  }
}

for (const copying of [false, true]) {
  const by = copying ? 'by copying' : 'by the kernel'

  test(`each piece leaves when it comes, ${by}`, async (t) => {
    const { source, outcome, reached, body, counted } = await send(t, copying, BYTES.length)
    let there = 0
    for (const piece of [1, 100, 64 * KiB, 300 * KiB, 2048 * KiB]) {
      source.grow(piece)
      there += piece
      await reached(there)
      t.equal(body().length, there, `${there} bytes, and none that are not there`)
    }
    source.grow(BYTES.length - there)
    t.equal(await outcome, BYTES.length)
    await reached(BYTES.length)
    t.ok(body().equals(BYTES))
    t.equal(counted(), BYTES.length)
  })

  test(`no more is sent than was promised, whatever the file has, ${by}`, async (t) => {
    const { source, outcome, reached, body } = await send(t, copying, 1000 * KiB + 7)
    source.grow(BYTES.length)
    t.equal(await outcome, 1000 * KiB + 7)
    await reached(1000 * KiB + 7)
    t.ok(body().equals(BYTES.subarray(0, 1000 * KiB + 7)))
  })

  test(`what is in no file any more is left to whoever reads, ${by}`, async (t) => {
    const { source, outcome } = await send(t, copying, BYTES.length)
    source.grow(700 * KiB)
    source.change('elsewhere')
    t.equal(await outcome, 700 * KiB)
  })

  test(`a source that fails, or ends before its time, is a failure, ${by}`, async (t) => {
    for (const end of ['nothing', new Error('these bytes were wrong')] as const) {
      await t.test(async (t) => {
        const { source, outcome, reached } = await send(t, copying, BYTES.length)
        source.grow(700 * KiB)
        await reached(700 * KiB)
        source.change(end)
        await t.rejects(outcome, end === 'nothing' ? /ended after 716800 of/ : end)
      })
    }
  })

  test(`a connection that only the kernel sees is not idle, ${by}`, async (t) => {
    const { source, outcome, reached } = await send(t, copying, BYTES.length, 1500)
    for (let there = 0; there < BYTES.length;) {
      source.grow(256 * KiB)
      there += 256 * KiB
      await reached(there)
      // Much less than the idle time, and together twice as much.
      await sleep(190)
    }
    t.equal(await outcome, BYTES.length)
  })
}
