/**
 * What a peer spends on one piece of work: exactly between its beginning and its end.
 */
import { atMost, type Figures, type Goal, type Row } from './compare.ts'
import { loopDelayP99Ms, metricsOf } from './metrics.ts'
import type { Peer } from './peers.ts'

export interface Spent<Result> {
  readonly result: Result
  readonly cpuSeconds: number
  /**
   * `peak MiB` since the peer's start, and, of entrepot, `loop p99 ms`: the delay of its event loop during the work.
   */
  readonly figures: Figures
}

export async function spending<Result>(
  peer: Pick<Peer, 'name' | 'url' | 'cpuSeconds' | 'peakBytes'>,
  work: () => Promise<Result>,
): Promise<Spent<Result>> {
  const ours = isOurs(peer)
  // Reading begins the histogram anew.
  if (ours) await metricsOf(peer.url)
  const before = peer.cpuSeconds()
  const result = await work()
  const cpuSeconds = peer.cpuSeconds() - before
  const loop = ours ? { 'loop p99 ms': loopDelayP99Ms(await metricsOf(peer.url)) } : {}
  return { result, cpuSeconds, figures: { 'peak MiB': peer.peakBytes() / 2 ** 20, ...loop } }
}

/** `entrepot`, and what it is called with other settings. */
export function isOurs({ name }: { readonly name: string }): boolean {
  return name.startsWith('entrepot')
}

/** Of whatever is entrepot in the rows: no bench may hold its event loop up. */
export function loopGoal(rows: readonly Row[]): Goal {
  const delays = rows.filter(isOurs).map(({ figures }) => figures['loop p99 ms'] ?? NaN)
  return atMost(
    "ms of delay of entrepot's event loop, p99",
    delays.length === 0 ? NaN : Math.max(...delays),
    20,
  )
}
