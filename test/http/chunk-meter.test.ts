/** Chunked bodies, whose end nobody knows: of refused requests, of such as want none, and in chunks of a few bytes. */
import { test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import type { PushTarget } from '../../src/registry/local/push-target.ts'
import { call, open, raw, replies, serveFake, type Served } from '../support/http-fakes.ts'

const CHUNKED = 'Host: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n'
const KiB = 1024

function takesManifests({ registry }: Served): Buffer[] {
  const taken: Buffer[] = []
  registry.target = {
    putManifest: (_reference: unknown, { bytes }: { bytes: Buffer }) => {
      taken.push(bytes)
      return Promise.resolve({ digest: digestOf(bytes), subject: undefined })
    },
  } as unknown as PushTarget
  return taken
}

function chunks(size: number, count: number): string {
  return `${size.toString(16)}\r\n${'x'.repeat(size)}\r\n`.repeat(count)
}

/** Also of a connection that ends by a reset, once they have been read. */
async function answersTo(port: number, ...pieces: string[]): Promise<ReturnType<typeof replies>> {
  const socket = await open(port)
  let text = ''
  socket.on('data', (piece: Buffer) => (text += piece.toString('latin1'))).on('error', () => undefined)
  const closed = new Promise((resolve) => socket.once('close', resolve))
  for (const piece of pieces) socket.write(piece)
  await closed
  return replies(text)
}

test('a request that is refused, or that wants no body, ends its connection when the body has no known end', async (t) => {
  const { port } = await serveFake(t)
  for (const [what, status] of [
    ['POST /v2/team/app/blobs/uploads/', 405],
    ['GET /nowhere', 404],
    ['GET /v2/', 400],
  ] as const) {
    // It never ends, and the client does not leave.
    const [reply, ...more] = replies(await raw(port, `${what} HTTP/1.1\r\n${CHUNKED}${chunks(1, 3)}`))
    t.equal(reply?.status, status, what)
    t.match(reply?.head, /^connection: close$/im, what)
    t.same(more, [])
  }
})

test('whoever is refused and still sends gets to read the answer', async (t) => {
  const { port, url } = await serveFake(t)
  const pieces = Array.from({ length: 64 }, () => chunks(32 * KiB, 1))
  const head = `POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\n${CHUNKED}`
  const [answer] = await answersTo(port, head, ...pieces, '0\r\n\r\n')
  t.equal(answer?.code, 'UNSUPPORTED')
  const headers = { 'Transfer-Encoding': 'chunked' }
  const body = Buffer.alloc(1000)
  const reply = await call(`${url}/v2/team/app/blobs/uploads/`, { method: 'POST', headers, body })
  t.equal(reply.code, 'UNSUPPORTED')
})

test('a body in chunks of a few bytes is ended with 400, and one in small chunks is not', async (t) => {
  const served = await serveFake(t)
  const taken = takesManifests(served)
  const head = `PUT /v2/team/app/manifests/1 HTTP/1.1\r\n${CHUNKED}`
  for (const size of [1, 4]) {
    const [reply] = await answersTo(served.port, head, chunks(size, 20_000))
    t.same([reply?.status, reply?.code], [400, 'BAD_REQUEST'], `${size}`)
    t.match(reply?.head, /^connection: close$/im)
  }
  t.same(taken, [])
  // All the small ones in front.
  const [late] = await answersTo(served.port, head, chunks(8 * KiB, 100), chunks(1, 20_000))
  t.equal(late?.status, 400)
  const last = 'GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n'
  for (const [size, count] of [
    [1, 1000],
    [64, 20_000],
    [32 * KiB, 100],
  ] as const) {
    const answers = replies(await raw(served.port, head, chunks(size, count), '0\r\n\r\n', last))
    t.same(
      answers.map(({ status }) => status),
      [201, 200],
      `${count} chunks of ${size}, and the next request on that connection`,
    )
    t.equal(taken.pop()?.length, size * count)
  }
})
