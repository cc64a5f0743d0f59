/** Finished blobs leave by the kernel or by copying: the client cannot tell which. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  closeSync,
  fsyncSync,
  openSync,
  readdirSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { createServer } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import path from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { Agent, request } from 'undici'
import { openLinuxSyscalls, type LinuxSyscalls } from '../../../src/http/transfer/linux-syscalls.ts'
import { BufferPool } from '../../../src/http/transfer/buffer-pool.ts'
import { sendFile } from '../../../src/http/transfer/sendfile.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { blobPath } from '../../../src/storage/blobs/blob-path.ts'
import { eventually, pull, startMirror, type Mirror } from '../../support/app.ts'
import { ENGINES, type Engine } from '../../support/engines.ts'
import { content, randomBytesOf } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'
import { askAndTakeNothing } from '../../support/stalled.ts'
import { TEST_CERTIFICATE, TEST_KEY } from '../../support/upstream-tls.ts'

const LAYER = content('application/octet-stream', randomBytesOf(14 * 2 ** 20 + 12_345, 'sendfile'))
const NOTHING = { url: 'http://127.0.0.1:9' }

async function start(t: Test, engine: Engine, idleMs?: number): Promise<Mirror & { blob: string }> {
  const root = t.testdir()
  await seedLocal(root, [{ name: 'team/app', blobs: [LAYER] }])
  const mirror = await startMirror(t, NOTHING, {
    root,
    config: { server: { port: 0, ...engine.server } },
    ...engine.overrides,
    ...(idleMs === undefined ? {} : { timeouts: { idleMs } }),
  })
  return { ...mirror, blob: `${mirror.url}/v2/team/app/blobs/${LAYER.digest}` }
}

/** A connection on which we write by hand; what comes is collected while somebody reads. */
async function dial(t: Test, url: string): Promise<Socket> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  t.teardown(() => socket.destroy())
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  return socket
}

function get(url: string, headers: Record<string, string> = {}): string {
  const { pathname, host } = new URL(url)
  const lines = Object.entries({ host, ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
  return `GET ${pathname} HTTP/1.1\r\n${lines.join('')}\r\n`
}

/** The next answer on a connection: its head, and as much body as the head says. */
async function answerOn(socket: Socket): Promise<{ head: string; body: Buffer }> {
  let bytes = Buffer.alloc(0)
  const chunks: Buffer[] = []
  let head = ''
  let want = Infinity
  for (;;) {
    const chunk = socket.read() as Buffer | null
    if (chunk === null) {
      await once(socket, 'readable')
      continue
    }
    if (head === '') {
      bytes = Buffer.concat([bytes, chunk])
      const end = bytes.indexOf('\r\n\r\n')
      if (end < 0) continue
      head = bytes.toString('latin1', 0, end)
      want = Number(/^content-length: (\d+)/im.exec(head)?.[1])
      chunks.push(bytes.subarray(end + 4))
    } else chunks.push(chunk)
    const have = chunks.reduce((sum, it) => sum + it.length, 0)
    if (have < want) continue
    const all = Buffer.concat(chunks)
    // What belongs to the next one goes back.
    if (have > want) socket.unshift(all.subarray(want))
    return { head, body: all.subarray(0, want) }
  }
}

/** The log's line of that request. */
async function lineOf(mirror: Mirror, matches: (line: Record<string, unknown>) => boolean) {
  let found: Record<string, unknown> | undefined
  await eventually('the request is in the log', () => {
    found = mirror.lines.find((line) => line['route'] === 'blob' && matches(line))
    return found !== undefined
  })
  return found!
}

for (const engine of ENGINES) {
  const { by } = engine

  test(`whole, in parts, and again on the same connection, ${by}`, async (t) => {
    const mirror = await start(t, engine)
    const whole = await pull(mirror.blob)
    t.equal(whole.status, 200)
    t.ok(whole.body.equals(LAYER.bytes))
    const line = await lineOf(mirror, ({ status }) => status === 200)
    t.equal(line['bytes'], LAYER.bytes.length)
    t.equal(line['sendfile'], by === 'by the kernel' ? true : undefined, 'by the engine that was asked for')

    const size = LAYER.bytes.length
    for (const [from, to] of [
      [0, 0],
      [1, 3 * 2 ** 20],
      [5 * 2 ** 20 + 1, 9 * 2 ** 20],
      [size - 2 * 2 ** 20, size - 1],
      [size - 1, size - 1],
    ] as const) {
      const part = await pull(mirror.blob, { range: `bytes=${from}-${to}` })
      t.equal(part.status, 206)
      t.ok(part.body.equals(LAYER.bytes.subarray(from, to + 1)), `bytes ${from} to ${to}`)
    }
    const parts = await pull(mirror.blob, { range: 'bytes=0-2000000,4000000-6000000' })
    t.equal(parts.status, 206)
    t.ok(parts.body.includes(LAYER.bytes.subarray(0, 2_000_001)))
    t.ok(parts.body.includes(LAYER.bytes.subarray(4_000_000, 6_000_001)))

    const socket = await dial(t, mirror.url)
    for (let i = 0; i < 3; i++) {
      socket.write(get(mirror.blob))
      t.ok((await answerOn(socket)).body.equals(LAYER.bytes), `answer ${i} on one connection`)
      socket.write(get(`${mirror.url}/v2/`))
      t.equal((await answerOn(socket)).body.toString(), '{}')
    }
  })

  test(`requests that come at once are answered in order, ${by}`, async (t) => {
    const mirror = await start(t, engine)
    const socket = await dial(t, mirror.url)
    socket.write(get(mirror.blob) + get(`${mirror.url}/v2/`) + get(mirror.blob, { range: 'bytes=7-4000000' }))
    t.ok((await answerOn(socket)).body.equals(LAYER.bytes))
    t.equal((await answerOn(socket)).body.toString(), '{}')
    t.ok((await answerOn(socket)).body.equals(LAYER.bytes.subarray(7, 4_000_001)))
  })

  test(`a client that resets its connection costs nobody anything, ${by}`, async (t) => {
    const mirror = await start(t, engine)
    const before = readdirSync('/proc/self/fd').length
    for (let i = 0; i < 8; i++) {
      const socket = await dial(t, mirror.url)
      socket.write(get(mirror.blob))
      await once(socket, 'readable')
      for (let taken = 0; taken < i * 500_000;) {
        const chunk = socket.read() as Buffer | null
        if (chunk === null) await once(socket, 'readable')
        else taken += chunk.length
      }
      socket.resetAndDestroy()
    }
    await eventually('every request is over', () => lines(mirror).length === 8)
    for (const { bytes } of lines(mirror)) t.ok(Number(bytes) < LAYER.bytes.length, 'counted as it left')
    await eventually('no descriptor is left', () => readdirSync('/proc/self/fd').length <= before)
    t.ok((await pull(mirror.blob)).body.equals(LAYER.bytes))
  })

  test(`a client that takes nothing is left after the idle time, ${by}`, async (t) => {
    const mirror = await start(t, engine, 200)
    await askAndTakeNothing(t, mirror.url, get(mirror.blob))
    const line = await lineOf(mirror, ({ status }) => status === 200)
    t.equal(line['timedOut'], true)
    t.ok(Number(line['bytes']) < LAYER.bytes.length)
  })

  test(`a client that takes little at a time gets everything, ${by}`, async (t) => {
    const mirror = await start(t, engine)
    const socket = await dial(t, mirror.url)
    socket.write(get(mirror.blob))
    const chunks: Buffer[] = []
    let bytes = 0
    let seen = 0
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      bytes += chunk.length
      // It looks away for a while, again and again.
      if (++seen % 16 === 0) for (let i = 0; i < 50; i++) await turn()
      if (bytes >= LAYER.bytes.length + 4) {
        const all = Buffer.concat(chunks)
        if (all.length - (all.indexOf('\r\n\r\n') + 4) >= LAYER.bytes.length) break
      }
    }
    const all = Buffer.concat(chunks)
    t.equal(digestOf(all.subarray(all.indexOf('\r\n\r\n') + 4)), LAYER.digest)
  })

  test(`a file that became shorter breaks the transfer off, ${by}`, async (t) => {
    const mirror = await start(t, engine)
    const socket = await dial(t, mirror.url)
    socket.write(get(mirror.blob))
    await once(socket, 'readable')
    truncateSync(blobPath(mirror.root, LAYER.digest), 10 * 2 ** 20)
    let bytes = 0
    const chunks = socket as AsyncIterable<Buffer>
    await t.rejects(async () => {
      for await (const chunk of chunks) bytes += chunk.length
      if (bytes < LAYER.bytes.length) throw new Error('cut')
    })
    t.ok(bytes < LAYER.bytes.length)
  })
}

/** The same layer, behind a certificate. */
async function startTls(t: Test, timeouts: { idleMs?: number } = {}): Promise<Mirror & { blob: string }> {
  const folder = t.testdir({ 'tls.crt': TEST_CERTIFICATE, 'tls.key': TEST_KEY })
  const root = path.join(folder, 'data')
  await seedLocal(root, [{ name: 'team/app', blobs: [LAYER] }])
  const tls = { cert: path.join(folder, 'tls.crt'), key: path.join(folder, 'tls.key') }
  const mirror = await startMirror(t, NOTHING, { root, config: { server: { port: 0, tls } }, timeouts })
  return { ...mirror, blob: `${mirror.url}/v2/team/app/blobs/${LAYER.digest}` }
}

test('a client that takes nothing of an encrypted connection is left after the idle time', async (t) => {
  const mirror = await startTls(t, { idleMs: 500 })
  await askAndTakeNothing(t, mirror.url, get(mirror.blob))
  const line = await lineOf(mirror, ({ status }) => status === 200)
  t.equal(line['timedOut'], true)
  t.ok(Number(line['bytes']) < LAYER.bytes.length)
})

test('an encrypted connection gets copies', async (t) => {
  const mirror = await startTls(t)
  // One connection, as clients keep it.
  const agent = new Agent({ connections: 1, connect: { ca: TEST_CERTIFICATE } })
  t.teardown(() => agent.destroy())
  const { blob } = mirror
  const whole = await request(blob, { dispatcher: agent })
  t.ok(Buffer.from(await whole.body.arrayBuffer()).equals(LAYER.bytes))
  const part = await request(blob, { dispatcher: agent, headers: { range: 'bytes=1000-5000000' } })
  t.equal(part.statusCode, 206)
  t.ok(Buffer.from(await part.body.arrayBuffer()).equals(LAYER.bytes.subarray(1000, 5_000_001)))
  const line = await lineOf(mirror, ({ status }) => status === 200)
  t.equal(line['sendfile'], undefined)
  t.equal(line['bytes'], LAYER.bytes.length)
})

function lines(mirror: Mirror): Record<string, unknown>[] {
  return mirror.lines.filter(({ route, status }) => route === 'blob' && status === 200)
}

/** Sends a file through a kernel that is told how to behave. */
async function sentBy(
  t: Test,
  behaviour: Partial<LinuxSyscalls>,
  {
    size = 9 * 2 ** 20 + 17,
    bytesPerMs,
    copying = false,
  }: { size?: number; bytesPerMs?: number; copying?: boolean } = {},
) {
  const kernel = await openLinuxSyscalls()
  if (kernel === undefined) throw new Error('there is no FFI here')
  const file = path.join(t.testdir(), 'file')
  const bytes = randomBytes(size)
  writeFileSync(file, bytes)
  const descriptor = openSync(file, 'r')
  t.teardown(() => closeSync(descriptor))
  let reads = 0
  let calls = 0
  const told: LinuxSyscalls = {
    sendFile: (...it) => {
      calls++
      return (behaviour.sendFile ?? kernel.sendFile.bind(kernel))(...it)
    },
    cachedUpTo: (...it) => (behaviour.cachedUpTo ?? kernel.cachedUpTo.bind(kernel))(...it),
    growSendBuffer: (...it) => (behaviour.growSendBuffer ?? kernel.growSendBuffer.bind(kernel))(...it),
    voluntarySwitches: () => (behaviour.voluntarySwitches ?? kernel.voluntarySwitches.bind(kernel))(),
  }
  let counted = 0
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-length': bytes.length })
    response.flushHeaders()
    const read = (buffer: Buffer, position: number): Promise<number> => {
      reads++
      return Promise.resolve(bytes.copy(buffer, 0, position))
    }
    const options = { kernel: told, copying, pool: new BufferPool(), signal: AbortSignal.timeout(30_000) }
    const now = bytesPerMs === undefined ? {} : { now: () => counted / bytesPerMs }
    void sendFile({ descriptor, start: 0, end: bytes.length, read }, response, {
      ...options,
      ...now,
      onBytes: (count) => (counted += count),
    }).then(() => response.end())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const { body } = await pull(`http://127.0.0.1:${port}`)
  t.ok(body.equals(bytes))
  t.equal(counted, bytes.length)
  return { reads, calls }
}

test('what is not in memory is read the ordinary way', async (t) => {
  const { calls, reads } = await sentBy(t, { cachedUpTo: (_file, start) => start })
  t.equal(calls, 0, 'no call waits for the disk')
  t.ok(reads > 8)
})

test('what is in memory is copied without a thread, what is not is not', async (t) => {
  const there = await sentBy(t, {}, { copying: true })
  t.equal(there.calls, 0, 'the kernel is not asked to send it')
  t.equal(there.reads, 1, 'but for the first piece')
  const away = await sentBy(t, { cachedUpTo: (_file, start) => start }, { copying: true })
  t.ok(away.reads > 8)
})

test('nor does the small piece after a full socket reach beyond what is in memory', async (t) => {
  const kernel = await openLinuxSyscalls()
  const asked: number[] = []
  let known = 0
  await sentBy(t, {
    // The first piece alone, and of that the socket takes all but a little.
    cachedUpTo: (_file, start) => {
      asked.push(start)
      if (asked.length === 1) known = start + 512 * 1024
      return asked.length === 1 ? known : start
    },
    sendFile: (socket, file, position, count) => kernel!.sendFile(socket, file, position, count - 100),
  })
  t.equal(asked[1], known, 'the next one begins where that ends')
})

test('a socket that never takes a file still gets all of it', async (t) => {
  const { calls } = await sentBy(t, { sendFile: () => 0 })
  t.ok(calls > 100)
})

for (const waited of [true, false]) {
  const then = waited ? 'is read the ordinary way to its end' : 'goes on, when nothing had to be waited for'
  test(`a file that was slow once ${then}`, async (t) => {
    const kernel = await openLinuxSyscalls()
    let waits = 0
    const { calls } = await sentBy(t, {
      sendFile: (...it) => {
        for (const end = performance.now() + 50; performance.now() < end;);
        if (waited) waits++
        return kernel!.sendFile(...it)
      },
      voluntarySwitches: () => waits,
    })
    t.equal(calls === 1, waited, `${calls} calls`)
  })
}

test('waiting in the kernel is told from working', async (t) => {
  const kernel = await openLinuxSyscalls()
  const before = kernel!.voluntarySwitches()
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
  t.ok(kernel!.voluntarySwitches() > before)
})

test('what a file has in memory is told without reading it in', async (t) => {
  const kernel = (await openLinuxSyscalls())!
  const file = path.join(t.testdir(), 'file')
  const size = 3 * 2 ** 20
  writeFileSync(file, randomBytes(size))
  const descriptor = openSync(file, 'r+')
  t.teardown(() => closeSync(descriptor))
  t.equal(kernel.cachedUpTo(descriptor, 0, size), size)
  t.equal(kernel.cachedUpTo(descriptor, 1000, 1001), 1001)
  fsyncSync(descriptor)
  // What is on the disk as well goes out of memory.
  execFileSync('dd', [`of=${file}`, 'oflag=nocache', 'conv=notrunc', 'count=0'], { stdio: 'ignore' })
  t.equal(kernel.cachedUpTo(descriptor, size / 2, size), size / 2)
  readSync(descriptor, Buffer.alloc(size), 0, size, 0)
  t.equal(kernel.cachedUpTo(descriptor, 0, size), size)
})

test('what lacks a little in between is not in memory', async (t) => {
  const kernel = (await openLinuxSyscalls())!
  const file = path.join(t.testdir(), 'file')
  const descriptor = openSync(file, 'wx+')
  t.teardown(() => closeSync(descriptor))
  // Page by page: what was written in one go may only go as one.
  for (let page = 0; page < 256; page++) writeSync(descriptor, randomBytes(4096))
  fsyncSync(descriptor)
  t.equal(kernel.cachedUpTo(descriptor, 0, 2 ** 20), 2 ** 20)
  // Neither at an end of the second half MiB nor in its middle.
  const part = ['bs=4096', 'skip=160', 'count=16']
  execFileSync('dd', [`if=${file}`, 'of=/dev/null', 'iflag=nocache', ...part], { stdio: 'ignore' })
  t.equal(kernel.cachedUpTo(descriptor, 0, 2 ** 20), 2 ** 19)
})

const MUCH = 40 * 2 ** 20
for (const [who, size, bytesPerMs, expected] of [
  ['who takes much, and quickly, is given a wider buffer, once', MUCH, 2 ** 20, 1],
  ['who takes much slowly is not', MUCH, 2 ** 18, 0],
  ['nor is who takes little', MUCH / 2, 2 ** 20, 0],
] as const) {
  test(who, async (t) => {
    let widened = 0
    await sentBy(t, { growSendBuffer: () => widened++ }, { size, bytesPerMs })
    t.equal(widened, expected)
  })
}
