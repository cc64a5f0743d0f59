/** What readers far ahead of the rest of a layer wait for. */
import { test } from 'tap'
import { isWhole, pull } from '../../support/app.ts'
import { inside, large, layerOf, prepare, ranges } from '../../support/segments.ts'

const MiB = 2 ** 20

test('a range far ahead that could not be had is asked for again, however often that happens', async (t) => {
  const it = large(1, 24 * MiB)
  const { upstream, blobUrl } = await prepare(t, [it], {}, { upstream: { segments: { parallel: 1 } } })
  upstream.fault(
    { kind: 'blob', when: ({ headers }) => headers.range === undefined },
    { hang: 'midBody', hangAfterBytes: MiB },
  )
  const leave = new AbortController()
  const whole = fetch(blobUrl(0), { signal: leave.signal }).then((answer) => answer.arrayBuffer())
  whole.catch(() => undefined)
  await upstream.log.until((log) => log.bytesSent('blob') === MiB)
  // Nobody is woken by what comes meanwhile.
  for (let times = 0; times < 3; times++) {
    upstream.fault({ kind: 'blob', when: inside(), times: 1 }, { status: 500 })
    const start = (12 + 2 * times) * MiB
    const part = await fetch(blobUrl(0), {
      headers: { range: `bytes=${start}-${start + 99_999}` },
      signal: AbortSignal.timeout(5_000),
    })
    t.ok(Buffer.from(await part.arrayBuffer()).equals(layerOf(it).bytes.subarray(start, start + 100_000)))
  }
  t.equal(ranges(upstream).length, 1 + 3 * 2)
  leave.abort()
})

test('where a layer comes in one because its pieces were wrong, nothing is fetched far ahead', async (t) => {
  const it = large(2, 16 * MiB)
  const { upstream, blobUrl } = await prepare(t, [it], { bytesPerSecond: 16 * MiB })
  upstream.fault({ kind: 'blob', when: inside() }, { corrupt: 'tail' })
  const whole = pull(blobUrl(0))
  await upstream.log.until(() => ranges(upstream).includes('all'))
  const far = pull(blobUrl(0), { range: `bytes=${12 * MiB}-${16 * MiB - 1}` })
  t.ok(isWhole(await whole, layerOf(it)))
  t.ok((await far).body.equals(layerOf(it).bytes.subarray(12 * MiB)))
  t.equal(ranges(upstream).at(-1), 'all')
})
