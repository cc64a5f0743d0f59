/** What the mirror reckons that it has of the disk, and that it is about to take. */
import { test } from 'tap'
import { EvictionOrder, type Evicted } from '../../../src/cache/eviction/eviction-order.ts'
import { CacheUsage } from '../../../src/cache/eviction/usage.ts'
import type { PartialDownload } from '../../../src/storage/ingest/ingest.ts'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { layer } from '../../support/images.ts'

const MB = 1_000_000
const [one, other] = ['one', 'other'].map((seed) => layer({ size: 10, seed }).digest) as [never, never]

/** A mirror without blobs, and with these parts of some. */
function usageOf(...downloads: Partial<PartialDownload>[]): CacheUsage {
  const found = downloads.map((it) => ({
    ...{ source: 'docker.io', digest: one, bytes: 0, idleSince: undefined, disowned: false },
    ...it,
  }))
  return new CacheUsage({
    index: {
      stored: () => Promise.resolve({ mirrored: new Map(), pushed: 0, index: 0 }),
      mirrored: () => Promise.resolve(undefined),
    },
    ingests: { downloads: () => found },
    metrics: createMetrics(),
  })
}

test('what a restore writes is not mirrored, and no part of what was admitted', async (t) => {
  const usage = usageOf({ source: 'local', digest: other, bytes: 3 * MB })
  using _admission = usage.admit({ source: 'docker.io', digest: one }, 2 * MB, 'keep')
  t.equal(usage.outstanding, 2 * MB)
  const { onDisk, budgeted } = await usage.measure()
  t.same([...onDisk], [])
  t.same([...budgeted], [['docker.io', 2 * MB]])
})

test('one that came larger than it was admitted takes nothing from what others were admitted for', (t) => {
  const usage = usageOf({ digest: one, bytes: 3 * MB })
  using _one = usage.admit({ source: 'docker.io', digest: one }, MB, 'keep')
  using _other = usage.admit({ source: 'docker.io', digest: other }, 2 * MB, 'keep')
  t.equal(usage.outstanding, 2 * MB)
  t.end()
})

test('of what is gone on with only the rest is to come, also before its file is open again', async (t) => {
  const usage = usageOf({ digest: one, bytes: 2 * MB, idleSince: 1 })
  const identity = { source: 'docker.io', digest: one }
  t.notOk(usage.expects(identity))
  using _admission = usage.admit(identity, 3 * MB, 'keep')
  t.ok(usage.expects(identity))
  t.equal(usage.outstanding, MB)
  t.same([...(await usage.measure()).budgeted], [['docker.io', 3 * MB]])
})

test('what was given up goes, but not while somebody is coming back for it', async (t) => {
  const idle = [one, other].map((digest) => ({
    ...{ source: 'docker.io', digest, bytes: MB, idleSince: 1, disowned: false },
  }))
  const nothing = { async *[Symbol.asyncIterator]() {} }
  const eviction = new EvictionOrder({
    index: {} as never,
    images: { leastRecent: () => nothing, leastRecentParts: () => nothing } as never,
    removal: {} as never,
    ingests: {
      downloads: () => idle,
      dropDownload: ({ digest }) => Promise.resolve(digest ? MB : 0),
      uploads: () => [],
      dropUpload: () => Promise.resolve(0),
    },
    expects: ({ digest }) => digest === one,
    now: () => Date.now(),
  })
  const goal = { why: 'budget', bytes: 2 * MB } as const
  const gone: Evicted[] = []
  for await (const it of eviction.pursue(goal, false, new AbortController().signal)) gone.push(it)
  t.match(gone, [{ what: 'download', digest: other }])
})
