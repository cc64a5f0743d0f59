/**
 * Many clients that pull the same image through a cold mirror at the same time.
 */
import type { Test } from 'tap'
import { isWhole, pull, settled, startMirror } from '../app.ts'
import { build } from './journey.ts'
import { startProfile, type ProfileName } from './start.ts'

export interface HerdSeen {
  /** Answers that were not whole and right. */
  readonly wrong: number
  /** Manifests, blobs and tokens that the registry gave out, and the most that any one of them was. */
  readonly given: Readonly<Record<'manifest' | 'blob' | 'token', { all: number; most: number }>>
}

export async function stampede(t: Test, name: ProfileName, clients: number): Promise<HerdSeen> {
  const running = await startProfile(t, name)
  const { key, repository, format, account, closed } = running.profile
  const held = build('herd', format)
  running.addImage(repository, '1', held)
  const mirror = await startMirror(t, running.registry, {
    config: {
      upstreams: {
        [key]: { url: running.registry.url, default: key === 'docker.io', ...(closed && account) },
      },
    },
  })
  const base = `${mirror.url}/v2/${repository}`
  const query = `?ns=${key}`
  const pullAll = async (): Promise<number> => {
    const tag = await pull(`${base}/manifests/1${query}`)
    const children = held.manifests.slice(0, -1)
    const rest = await Promise.all([
      ...children.map(async (it) => isWhole(await pull(`${base}/manifests/${it.digest}${query}`), it)),
      ...held.blobs.map(async (it) => isWhole(await pull(`${base}/blobs/${it.digest}${query}`), it)),
    ])
    return [isWhole(tag, held.manifest), ...rest].filter((right) => !right).length
  }
  const wrong = await Promise.all(Array.from({ length: clients }, pullAll))
  await settled(mirror)
  const given = (kinds: readonly string[]): { all: number; most: number } => {
    const seen = running.seen(
      ({ kind, status, method }) => kinds.includes(kind) && status === 200 && method !== 'HEAD',
    )
    const times = new Map<string, number>()
    for (const { ref, url } of seen) times.set(ref ?? url, (times.get(ref ?? url) ?? 0) + 1)
    return { all: seen.length, most: Math.max(0, ...times.values()) }
  }
  return {
    wrong: wrong.reduce((sum, it) => sum + it, 0),
    given: { manifest: given(['manifest']), blob: given(['blob', 'cdn']), token: given(['token']) },
  }
}
