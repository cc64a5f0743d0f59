import { test } from 'tap'
import { RetryBudget } from '../../../src/cache/download/retry-budget.ts'
import { UpstreamState } from '../../../src/cache/resilience/upstream-state.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { createLog } from '../../../src/telemetry/log.ts'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { OfflineUpstream } from '../../../src/upstream/client/offline.ts'
import { TransferSlots } from '../../../src/upstream/limits/transfer-slots.ts'
import { UpstreamError } from '../../../src/upstream/upstream.ts'

const SECOND = 1000
const enough = new Error('enough of that test')

function patience(): RetryBudget {
  return new RetryBudget({
    origin: {
      upstream: new OfflineUpstream('docker.io'),
      state: new UpstreamState(() => performance.now()),
      slots: new TransferSlots(8),
      immutableTags: [],
      on404: 'drop',
      reserve: 0,
      tagTtlMs: 0,
    },
    name: parseRepositoryName('library/thing'),
    digest: digestOf(Buffer.from('thing')),
    metrics: createMetrics(),
    log: createLog({ level: 'silent' }),
  })
}

/** Whether it would wait, told to do so for that long; the wait itself is cut short. */
async function waits(it: RetryBudget, seconds: number, brought = 0): Promise<boolean> {
  const busy = new UpstreamError('busy', 'docker.io', 'slow down', { retryAfterMs: seconds * SECOND })
  const leaving = new AbortController()
  const waiting = it.afterFailure(busy, { brought, promised: true }, leaving.signal)
  leaving.abort(enough)
  try {
    await waiting
    return true
  } catch (error) {
    if (error === enough) return true
    if (error === busy) return false
    throw error
  }
}

void test('an upstream that asks for a minute in all gets it, and no more', async (t) => {
  t.ok(await waits(patience(), 60))
  t.notOk(await waits(patience(), 61))
  const often = patience()
  t.same([await waits(often, 25), await waits(often, 25), await waits(often, 25)], [true, true, false])
})

void test('with progress it begins anew', async (t) => {
  const it = patience()
  t.ok(await waits(it, 50))
  t.ok(await waits(it, 50, 1_000_000))
  t.notOk(await waits(it, 50, 10), 'a few bytes are none')
})
