/**
 * entrepot in front of a registry that asks who is there; both live by one clock that is ours.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import {
  eventually,
  heard,
  isWhole,
  pull,
  settled,
  simulate,
  startMirror,
  type MirrorOptions,
} from './app.ts'
import { image, type Image } from './images.ts'
import type { Pulled } from './app.ts'
import type { Mirror } from './app.ts'
import type { UpstreamOptions, UpstreamSimulator } from './upstream.ts'

/** What holds the image, as upstream calls it. */
export const REPO = 'library/app'
/** What is not valid in a URL, a header or a line. */
export const ROBOT = { username: 'office+robot', password: 'p:ä"ss\nword' }

/** A page of a list that is not kept here. */
const HANDED_ON = 'tags/list?next_page=~'

export interface Guarded {
  readonly upstream: UpstreamSimulator
  readonly mirror: Mirror
  readonly clock: { now: number }
  /** `library/app:1` */
  readonly image: Image
  /** `path` is what follows `/v2/library/app/`. */
  readonly get: (path?: string) => Promise<Pulled>
  /** Asks upstream each time, as pages of lists do that are handed on. */
  readonly list: () => Promise<number>
  /** Whether all of the image comes whole and right. */
  readonly pullAll: () => Promise<boolean>
  /** The whole image is cached, its tag is old, and all tokens are. */
  readonly grownStale: () => Promise<void>
  readonly readyz: () => Promise<{ status: string; upstreams: Record<string, unknown>[] }>
  readonly metric: (name: string) => Promise<number | undefined>
}

export async function guard(
  t: Test,
  simulated: UpstreamOptions,
  options: MirrorOptions = {},
): Promise<Guarded> {
  const clock = { now: 1_700_000_000_000 }
  const upstream = await simulate(t, { now: () => clock.now, ...simulated })
  const held = image({ layers: [300_000, 1000] })
  upstream.addImage(REPO, '1', held)
  const mirror = await startMirror(t, upstream, {
    now: () => clock.now,
    staleBudgetMs: 1_000,
    budgetMs: 3_000,
    ...options,
    cache: { prefetch: 'off', ...options.cache },
    upstream: { timeouts: { connect: '1s', headers: '1s', idle: '1s' }, ...options.upstream },
  })
  const get = (path = 'manifests/1'): Promise<Pulled> => pull(`${mirror.url}/v2/${REPO}/${path}`)
  const pullAll = async (): Promise<boolean> => {
    const manifest = await get()
    if (!isWhole(manifest, held.manifest)) return false
    const blobs = await Promise.all(held.blobs.map(({ digest }) => get(`blobs/${digest}`)))
    return blobs.every((blob, position) => isWhole(blob, held.blobs[position]!))
  }
  return {
    upstream,
    mirror,
    clock,
    image: held,
    get,
    list: async () => (await get(HANDED_ON)).status,
    pullAll,
    grownStale: async () => {
      if (!(await pullAll())) throw new Error('the good days are none')
      await settled(mirror)
      await eventually('it is kept', async () => (await get()).cache === 'hit')
      await heard(mirror)
      clock.now += 600_000
      // Work that goes on behind an answer is over before the bad days begin.
      await sleep(0)
    },
    readyz: async () => {
      const { body } = await pull(`${mirror.url}/readyz`)
      return JSON.parse(body.toString()) as { status: string; upstreams: Record<string, unknown>[] }
    },
    metric: async (name) => {
      const { body } = await pull(`${mirror.url}/metrics`)
      const value = new RegExp(`^${name}\\{[^}]*\\} (.+)$`, 'm').exec(body.toString())?.[1]
      return value === undefined ? undefined : Number(value)
    },
  }
}

/** Whatever the mirror said, as one text. */
export function everythingSaid(mirror: Mirror): string {
  return JSON.stringify(mirror.lines)
}
