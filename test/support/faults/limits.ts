/**
 * Upstreams that have heard enough of us.
 */
import type { RateLimit } from '../upstream-limits.ts'
import type { Fault } from './fault.ts'

/** Nothing is left from now on. */
function exhausted(name: string, limit: Omit<RateLimit, 'limit'>, endings: Fault['endings']): Fault {
  return {
    name: `rateLimit: ${name}`,
    section: '4.3',
    begin: (upstream) => upstream.set({ rateLimit: { limit: 0, ...limit } }),
    endings,
    // A transfer that was promised waits 10 s and 20 s for a registry that does not say how long.
    ...(limit.counts === 'all' ? { budgetMs: 50_000 } : {}),
  }
}

/** Longer than a transfer is held up for. */
const ALL = { counts: 'all', retryAfterSeconds: 120 } as const
const NOTHING_MORE = { cold: ['refused'], 'in flight': ['broken'] } as const

export const LIMIT_FAULTS: readonly Fault[] = [
  exhausted('pulls', {}, { cold: ['refused'] }),
  exhausted('pulls and HEAD', { countHead: true }, { cold: ['refused'] }),
  exhausted('json', { ...ALL, body: 'json', retryAfter: 'none' }, NOTHING_MORE),
  exhausted('text, retryAfter: secs', { ...ALL, body: 'text', retryAfter: 'secs' }, NOTHING_MORE),
  exhausted('HAP429, retryAfter: date', { ...ALL, body: 'HAP429', retryAfter: 'date' }, NOTHING_MORE),
  exhausted('json, retryAfter: past', { ...ALL, body: 'json', retryAfter: 'past' }, NOTHING_MORE),
  exhausted('empty, retryAfter: xUnix', { ...ALL, body: 'empty', retryAfter: 'xUnix' }, NOTHING_MORE),
  exhausted(
    'with a challenge',
    { ...ALL, challenge: 'Bearer realm="https://auth.example/token",service="x"' },
    NOTHING_MORE,
  ),
  {
    name: 'rateLimit: ecrRate',
    section: '4.3',
    begin: (upstream) => upstream.set({ rateLimit: { limit: 1, windowMs: 1000, counts: 'all' } }),
    endings: { cold: ['refused', 'broken', 'served'], 'in flight': ['served', 'broken'] },
  },
]
