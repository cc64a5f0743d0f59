/** Pieces that an upstream does not give as they were asked for: the layer comes all the same. */
import { test } from 'tap'
import { isWhole, pull } from '../support/app.ts'
import { LARGE, large, layerOf, prepare, ranges } from '../support/segments.ts'
import type { Behaviour } from '../support/upstream-rules.ts'

const MiB = 2 ** 20

for (const behaviour of [
  { status: 503 },
  { status: 429 },
  { status: 416 },
  { dropAfterBytes: 100_000 },
  { status: 500 },
]) {
  const what = JSON.stringify(behaviour)
  test(`pieces that are refused, cut or limited are fetched by those that go on: ${what}`, async (t) => {
    const it = large(6)
    const { upstream, blobUrl } = await prepare(t, [it], { bytesPerSecond: 16 * MiB })
    let asked = 0
    upstream.fault({ kind: 'blob', times: 2, when: () => ++asked > 1 }, behaviour)
    const pulled = await pull(blobUrl(0))
    t.ok(isWhole(pulled, layerOf(it)))
    t.ok(upstream.log.bytesSent('blob') <= LARGE * 1.1, `${upstream.log.bytesSent('blob')} bytes`)
  })
}

const WRONG: [what: string, behaviour: Behaviour][] = [
  ['another size', { contentRange: ({ start, end }) => `bytes ${start}-${end - 1}/${99 * MiB}` }],
  ['another part', { contentRange: ({ start, end, size }) => `bytes ${start + 7}-${end + 6}/${size}` }],
  ['no word of which part', { contentRange: 'none' }],
  ['several parts', { multipartAlways: true }],
  ['all of it', { ignoreRange: true }],
]
for (const [what, behaviour] of WRONG) {
  test(`pieces of something else than what was asked for are thrown away, and cost nothing: ${what}`, async (t) => {
    const it = large(17)
    const { upstream, blobUrl } = await prepare(t, [it], { bytesPerSecond: 32 * MiB })
    let asked = 0
    // The first is as it should be, and so is the one that goes on.
    upstream.fault({ kind: 'blob', when: () => (asked += 1) > 1 && asked < 5 }, behaviour)
    t.ok(isWhole(await pull(blobUrl(0)), layerOf(it)))
    t.notOk(ranges(upstream).includes('all'), 'nobody asks for all of it in place of a part')
    // What of three bodies was in sockets is lost.
    t.ok(upstream.log.bytesSent('blob') <= LARGE + 3 * MiB, `${upstream.log.bytesSent('blob')} bytes`)
  })
}
