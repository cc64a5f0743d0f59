/**
 * A mirror whose receivers of notifications are retried without pauses, and pushes to tell them of.
 */
import type { Test } from 'tap'
import { pull, simulate, startMirror, type Mirror, type MirrorOptions } from './app.ts'
import { layer } from './images.ts'
import type { Listener } from './listener.ts'
import { send } from './push.ts'

/** Without pauses that a test would have to wait for. */
export const EAGER = { timeout: '60s', backoff: '1ms' }

export async function startNotified(
  t: Test,
  notifications: readonly Record<string, unknown>[],
  options: MirrorOptions = {},
): Promise<Mirror> {
  return startMirror(t, await simulate(t), {
    ...options,
    config: { notifications: notifications.map((it) => ({ ...EAGER, ...it })) },
  })
}

/** Small blobs to `team/app`, in order unless there are several at once. @returns their digests */
export async function pushSmall(mirror: Mirror, count: number, atOnce = 1): Promise<string[]> {
  const blobs = Array.from({ length: count }, (_, seed) => layer({ size: 10, seed }))
  const rest = blobs.values()
  const push = async (): Promise<void> => {
    for (const { digest, bytes } of rest) {
      const { status } = await send(
        `${mirror.url}/v2/team/app/blobs/uploads/?digest=${digest}`,
        'POST',
        bytes,
      )
      if (status !== 201) throw new Error(`a push was answered ${status}`)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, push))
  return blobs.map(({ digest }) => digest)
}

export function digestsTaken(listener: Listener): (string | undefined)[] {
  return listener.taken.map(({ target }) => target.digest)
}

/** Of the metric `entrepot_notifications_NAME`. */
export async function notificationMetric(mirror: Mirror, name: string, url: string): Promise<number> {
  const text = (await pull(`${mirror.url}/metrics`)).body.toString()
  const series = `entrepot_notifications_${name}{endpoint="${new URL(url).host}"} `
  const line = text.split('\n').find((it) => it.startsWith(series))
  return line === undefined ? 0 : Number(line.slice(series.length))
}
