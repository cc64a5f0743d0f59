/** Upstream's word for a blob's length is only a word until the digest is verified. */
import { test } from 'tap'
import { image, type Content } from '../support/images.ts'
import { isWhole, pull, pullSame, settled, simulate, startMirror, type Pulled } from '../support/app.ts'

const MiB = 1024 * 1024

async function setUp(t: Parameters<typeof simulate>[0], size: number) {
  const upstream = await simulate(t)
  const big = image({ layers: [size] })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream)
  const layer = big.layers[0]!
  return { upstream, mirror, layer, url: `${mirror.url}/v2/library/big/blobs/${layer.digest}` }
}

/** Right, or an error that the client can tell from success. */
function isHonest(pulled: Pulled, content: Content): boolean {
  return isWhole(pulled, content) || pulled.broken !== undefined || pulled.status >= 500
}

for (const size of [20_000, 4 * MiB]) {
  for (const dropAfterBytes of [0, 10_000]) {
    test(`a body that ends early without having said its length (${dropAfterBytes} of ${size})`, async (t) => {
      const { upstream, mirror, layer, url } = await setUp(t, size)
      upstream.fault({ kind: 'blob', nth: 1 }, { dropAfterBytes, how: 'cleanChunkEnd' })
      upstream.fault({ kind: 'blob', nth: 2 }, { latencyMs: 300 })
      const first = pull(url)
      // The end of the first body is known to be wrong now, and the second has not come.
      await upstream.log.until((log) => log.count('blob') === 2)
      const late = [pull(url), pull(url, { range: 'bytes=0-' }), pull(url, { range: 'bytes=0-99' })] as const
      t.ok(isWhole(await first, layer))
      t.ok(isWhole(await late[0], layer))
      t.ok(isWhole(await late[1], layer))
      const part = await late[2]
      t.ok(part.status === 206 ? part.body.equals(layer.bytes.subarray(0, 100)) : isWhole(part, layer))
      await settled(mirror)
      t.equal((await pullSame(url, layer)).cache, 'hit')
    })
  }

  for (const said of [size / 2, 100]) {
    test(`a body that is whole and shorter than the blob (${said} of ${size})`, async (t) => {
      const { upstream, mirror, layer, url } = await setUp(t, size)
      upstream.fault({ kind: 'blob', nth: 1 }, { dropAfterBytes: said, how: 'shortContentLength' })
      upstream.fault({ kind: 'blob', nth: 2 }, { latencyMs: 300 })
      const early = [pull(url), pull(url, { range: 'bytes=10-' })]
      await upstream.log.until((log) => log.count('blob') === 2)
      const late = [pull(url), pull(url, { range: 'bytes=10-' })]
      const [one, part, two, another] = (await Promise.all([...early, ...late])) as [
        Pulled,
        Pulled,
        Pulled,
        Pulled,
      ]
      for (const pulled of [one, two]) t.ok(isHonest(pulled, layer))
      for (const pulled of [part, another]) {
        const right =
          pulled.body.equals(layer.bytes.subarray(10)) &&
          String(pulled.headers['content-range']).endsWith(`/${size}`)
        t.ok(right || pulled.broken !== undefined || pulled.status >= 400, 'no part of another blob')
      }
      await settled(mirror)
      t.ok((await pullSame(url, layer)).same)
    })
  }
}
