/** Bodies of upstreams that come in pieces of a few bytes. */
import fc from 'fast-check'
import { test } from 'tap'
import { ResponseBody } from '../../../src/upstream/transport/response-body.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'
import { bytesOf, connect, NAME } from '../../support/upstream-client.ts'

const nothing = { pause: () => undefined, resume: () => undefined, abort: () => undefined }

async function batches(body: ResponseBody): Promise<Buffer[]> {
  const all: Buffer[] = []
  for await (const batch of body) all.push(...batch)
  return all
}

test('pieces of any size come out in their order, and small ones together', async (t) => {
  const sizes = fc.array(
    fc.oneof(fc.nat({ max: 30 }), fc.integer({ min: 1000, max: 1050 }), fc.nat({ max: 40_000 })),
  )
  await fc.assert(
    fc.asyncProperty(sizes, async (lengths) => {
      const body = new ResponseBody(nothing)
      const pieces = lengths.map((length, at) => Buffer.alloc(length, at))
      for (const piece of pieces) body.push(piece)
      body.finish()
      return Buffer.concat(await batches(body)).equals(Buffer.concat(pieces))
    }),
    { numRuns: 200 },
  )
  const body = new ResponseBody(nothing)
  for (let at = 0; at < 100_000; at += 1) body.push(Buffer.of(at % 256))
  body.finish()
  const out = await batches(body)
  t.ok(out.length < 10, `${out.length} buffers`)
  t.ok(Buffer.concat(out).every((byte, at) => byte === at % 256))
})

test('a body in chunks of one byte is given up', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  const { digest } = image.layers[0]!
  const head = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
  upstream.fault({ kind: 'blob' }, { raw: { bytes: head + '1\r\nx\r\n'.repeat(5000), then: 'hang' } })
  const reading = client.blob(NAME, digest, { from: 0, signal }).then((blob) => bytesOf(blob))
  const error: unknown = await reading.catch((cause: unknown) => cause)
  t.ok(error instanceof UpstreamError)
  t.match(error, { failure: 'broken', message: /chunks that are too small/ })
})
