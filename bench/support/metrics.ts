/**
 * What a running entrepot says of itself.
 */

/** The sum over all labels, of each metric by its name; 0 for one that is not there. */
export type Metrics = (name: string) => number

export async function metricsOf(url: string): Promise<Metrics> {
  const response = await fetch(`${url}/metrics`, { headers: { connection: 'close' } })
  const lines = (await response.text()).split('\n')
  return (name) =>
    lines
      .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
}

/** How often the loop is looked at: the histogram holds the times between two looks, and so these are in it. */
const LOOK_MS = 10

/**
 * How late the event loop was since the last time that anybody read the metrics, which begin anew with each reading.
 */
export function loopDelayP99Ms(metrics: Metrics): number {
  const lag = metrics('nodejs_eventloop_lag_p99_seconds')
  // Of some time there is always one: else nobody looked.
  return lag === 0 ? NaN : Math.max(0, lag * 1000 - LOOK_MS)
}
