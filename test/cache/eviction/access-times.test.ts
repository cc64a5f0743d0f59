/** When what is here was last pulled: in memory, written down now and then, and never lost by a clean stop. */
import { test } from 'tap'
import { AccessTimes } from '../../../src/cache/eviction/access-times.ts'
import { createLog } from '../../../src/telemetry/log.ts'
import { layer } from '../../support/images.ts'
import { openWarehouse, KB } from '../../support/warehouse.ts'
import { eventually, pull, startMirror } from '../../support/app.ts'
import type { MetadataStore, MetadataTransaction } from '../../../src/storage/metadata/metadata.ts'
import type { Digest } from '../../../src/oci/digest.ts'

const [one, other] = ['one', 'other'].map((seed) => layer({ size: 10, seed }).digest) as [Digest, Digest]

test('a blob is written down once however often it is pulled, all of them in one commit', async (t) => {
  const commits: [Digest, number][][] = []
  let refuses = false
  const metadata: Pick<MetadataStore, 'transaction'> = {
    transaction: (fill) => {
      if (refuses) return Promise.reject(new Error('the disk is full'))
      const written: [Digest, number][] = []
      fill({
        markPulled: (digest: Digest, at: number) => written.push([digest, at]),
      } as unknown as MetadataTransaction)
      commits.push(written)
      return Promise.resolve()
    },
  }
  const clock = { now: 1000 }
  const recency = new AccessTimes({ metadata, log: createLog({ level: 'silent' }), now: () => clock.now })
  t.teardown(() => recency[Symbol.asyncDispose]())
  for (; clock.now < 1010; clock.now++) recency.touch(one)
  recency.touch(other)
  t.equal(recency.latest(one, 500), 1009)
  t.equal(recency.latest(one, 5000), 5000)
  await recency.flush()
  t.same(commits.splice(0), [
    [
      [one, 1009],
      [other, 1010],
    ],
  ])
  await recency.flush()
  t.same(commits, [], 'nothing new is nothing to write')

  refuses = true
  recency.touch(one)
  await recency.flush()
  t.equal(recency.latest(one, 0), 1010, 'what cannot be written down is still known')
  refuses = false
  await recency.flush()
  t.same(commits, [[[one, 1010]]])
})

test('what was pulled last stays, also after a restart', async (t) => {
  const { mirror, offer, pullImage, here, clock, upstream } = await openWarehouse(t)
  const names = ['library/a', 'library/b', 'library/c']
  const images = names.map((name) => offer(name, [100 * KB]))
  for (const [at, name] of names.entries()) await pullImage(name, images[at]!)
  clock.now += 1_000
  await pull(`${mirror.url}/v2/library/a/blobs/${images[0]!.layers[0]!.digest}`)
  await mirror.close()
  const again = await startMirror(t, upstream, {
    root: mirror.root,
    now: () => clock.now,
    cache: { prefetch: 'off', minFree: '0', maxSize: '250000' },
  })
  await eventually('something is evicted', () => again.lines.some(({ msg }) => msg === 'evicted'))
  t.same(images.map(here), ['all', 'none', 'all'])
})
