import { test } from 'tap'
import { pull, simulate, startMirror } from '../../support/app.ts'
import { content, descriptorOf, image } from '../../support/images.ts'
import { bytesAt, largeLayer } from '../../support/large-layer.ts'
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'

const GiB = 1024 ** 3

test('largeLayer: offsets beyond 2^31 and 2^32 are right in both directions, while the rest is on its way', async (t) => {
  const size = 5 * GiB + 5
  const upstream = await simulate(t)
  const layer = largeLayer(size)
  const { config } = image()
  const manifest = content(
    MEDIA_TYPES.ociManifest,
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MEDIA_TYPES.ociManifest,
        config: descriptorOf(config),
        layers: [descriptorOf(layer)],
      }),
    ),
  )
  upstream.holdings.addManifest('library/large', '1', manifest)
  upstream.addBlob('library/large', layer)
  // Whoever goes on from the beginning is not to get far.
  upstream.fault(
    { kind: 'blob', when: ({ headers }) => headers.range === undefined },
    { bytesPerSecond: 64 * 1024 },
  )
  const mirror = await startMirror(t, upstream, {
    cache: { prefetch: 'off' },
    // All of it must not come in pieces, each of which is quick.
    upstream: { segments: { parallel: 1 } },
  })
  const url = `${mirror.url}/v2/library/large`
  t.equal((await pull(`${url}/manifests/1`)).status, 200)
  const blob = `${url}/blobs/${layer.digest}`
  t.equal((await pull(blob, {}, 'HEAD')).headers['content-length'], String(size))
  for (const [range, start, end] of [
    ['bytes=2147483640-2147483655', 2 ** 31 - 8, 2 ** 31 + 8],
    ['bytes=4294967290-4294967305', 2 ** 32 - 6, 2 ** 32 + 10],
    ['bytes=-9', size - 9, size],
    [`bytes=${size - 3}-`, size - 3, size],
    [`bytes=${size - 3}-${size + 1000}`, size - 3, size],
  ] as const) {
    const part = await pull(blob, { range })
    t.equal(part.status, 206, range)
    t.equal(part.headers['content-range'], `bytes ${start}-${end - 1}/${size}`)
    t.equal(part.headers['content-length'], String(end - start))
    t.ok(part.body.equals(bytesAt(start, end)), range)
  }
  const beyond = await pull(blob, { range: `bytes=${size}-` })
  t.equal(beyond.status, 416)
  t.equal(beyond.headers['content-range'], `bytes */${size}`)
  t.notOk(
    upstream.log.of({ kind: 'blob', method: 'GET' }).some(({ bytesSent }) => bytesSent > GiB),
    'nobody fetched what lies between',
  )
})
