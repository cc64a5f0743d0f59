/**
 * One image at one simulated registry, a mirror in front of it, and a clock.
 */
import path from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Digest } from '../../src/oci/digest.ts'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import {
  eventually,
  pull,
  settled,
  simulate,
  startMirror,
  type Mirror,
  type MirrorOptions,
  type Pulled,
} from './app.ts'
import { image, type Content, type Image } from './images.ts'
import type { UpstreamOptions, UpstreamSimulator } from './upstream.ts'

export interface Scene {
  readonly upstream: UpstreamSimulator
  readonly mirror: Mirror
  readonly image: Image
  /** The image's layers. */
  readonly layers: readonly Content[]
  /** Wall clock of the mirror. */
  readonly clock: { now: number }
  /** `path` is what follows `/v2/library/app/`. */
  readonly get: (path: string, headers?: Record<string, string>) => Promise<Pulled>
  readonly head: (path: string) => Promise<Pulled>
  readonly url: (path: string) => string
  /** Tag, config and layers, in that order; resolves when all of it is written down. */
  readonly pullAll: () => Promise<Pulled[]>
  /** What tag `1` is has been written down: until then, whoever asks joins those who asked before. */
  readonly written: () => Promise<void>
}

/** `library/app:1`, with such layers. Nothing is fetched ahead. */
export async function stage(
  t: Test,
  layers: readonly number[],
  options: { upstream?: UpstreamOptions; mirror?: MirrorOptions } = {},
): Promise<Scene> {
  const upstream = await simulate(t, options.upstream)
  const held = image({ layers })
  upstream.addImage('library/app', '1', held)
  const clock = { now: Date.now() }
  const mirror = await startMirror(t, upstream, {
    now: () => clock.now,
    // Nobody is in a hurry unless a test says so: a busy machine must not look like a slow upstream.
    budgetMs: 30_000,
    staleBudgetMs: 30_000,
    ...options.mirror,
    cache: { prefetch: 'off', ...options.mirror?.cache },
  })
  const url = (rest: string): string => `${mirror.url}/v2/library/app/${rest}`
  const get: Scene['get'] = (rest, headers) => pull(url(rest), headers)
  const written = (): Promise<void> => tagWritten(mirror, 'docker.io', 'library/app', '1', clock.now)
  return {
    upstream,
    mirror,
    image: held,
    layers: held.layers,
    clock,
    get,
    head: (rest) => pull(url(rest), {}, 'HEAD'),
    url,
    pullAll: async () => {
      const answers = [await get('manifests/1')]
      for (const { digest } of held.blobs) answers.push(await get(`blobs/${digest}`))
      await written()
      await settled(mirror)
      return answers
    },
    written,
  }
}

/** @param at when it was asked of upstream, by the mirror's clock */
export async function tagWritten(
  { app }: Mirror,
  registry: string,
  name: string,
  tag: string,
  at: number,
): Promise<void> {
  let digest: Digest | undefined
  await eventually(`${name}:${tag} is written down`, async () => {
    const record = await app.metadata.tags.get({ registry, name: parseRepositoryName(name) }, parseTag(tag))
    if (record?.checkedAt === at) digest = record.digest
    return digest !== undefined
  })
  // Behind it in the same queue, and of no effect: when this is done, whoever wrote it has heard so. One that writes
  // nothing at all is not queued.
  await app.metadata.transaction((tx) => tx.markPulled(digest!, 0))
  await turn()
}

/** Where the bytes of that blob lie. */
export function fileOf(root: string, { digest }: Content): string {
  const hex = digest.slice('sha256:'.length)
  return path.join(root, 'blobs', 'sha256', hex.slice(0, 2), hex)
}
