/**
 * Waiting for what a mirror does by itself behind the answers that it has given.
 */
import { eventually, settled, type Mirror } from './app.ts'
import type { UpstreamSimulator } from './upstream.ts'

/** So long after the last request nothing more is asked ahead. */
const QUIET_MS = 150

/** All that was asked ahead, or in the background, has come and been written down. */
export async function quiet(
  mirror: Pick<Mirror, 'url'>,
  ...upstreams: readonly UpstreamSimulator[]
): Promise<void> {
  let asked = -1
  let since = performance.now()
  await eventually('nothing is asked any more', () => {
    const count = upstreams.reduce((sum, { log }) => sum + log.count(), 0)
    if (count !== asked) since = performance.now()
    asked = count
    return performance.now() - since > QUIET_MS
  })
  await settled(mirror)
}
