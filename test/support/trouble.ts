/**
 * A mirror on a disk that can be told to fail, and what it is then heard to say.
 */
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import type { Test } from 'tap'
import { eventually, pull, simulate, startMirror, type Mirror, type MirrorOptions } from './app.ts'
import { FaultyFiles } from './faulty-files.ts'
import { image, type Content } from './images.ts'
import type { UpstreamOptions } from './upstream.ts'

/** Longer than storage must have worked to be called well. */
export const QUIET = 60_000

export const REFUSES = 'storage refuses writes: pulls are streamed through uncached'
export const WORKS = 'storage takes writes again'

/** One image `library/big:1` of such layers. */
export async function setUp(
  t: Test,
  layers: number[],
  options: { upstream?: UpstreamOptions; mirror?: MirrorOptions } = {},
) {
  const upstream = await simulate(t, options.upstream ?? {})
  const big = image({ layers })
  upstream.addImage('library/big', '1', big)
  const disk = new FaultyFiles()
  const clock = { now: Date.now() }
  const mirror = await startMirror(t, upstream, {
    cache: { prefetch: 'off' },
    files: disk.files,
    now: () => clock.now,
    ...options.mirror,
  })
  const url = (content: Content): string => `${mirror.url}/v2/library/big/blobs/${content.digest}`
  const tag = `${mirror.url}/v2/library/big/manifests/1`
  return { upstream, mirror, disk, clock, big, layers: big.layers, url, tag }
}

/** Messages of that level. */
export function said(mirror: Mirror, level: string): unknown[] {
  return mirror.lines.filter((line) => line['level'] === level).map((line) => line['msg'])
}

/** As counted by the metric. */
export async function bypasses(mirror: Mirror): Promise<number> {
  const { body } = await pull(`${mirror.url}/metrics`)
  let sum = 0
  for (const [, value] of body.toString().matchAll(/^entrepot_cache_bypass_total\{.*\} (\d+)$/gm)) {
    sum += Number(value)
  }
  return sum
}

export async function storedFiles(mirror: Mirror, folder: string): Promise<string[]> {
  const top = path.join(mirror.root, folder)
  const entries = await readdir(top, { recursive: true, withFileTypes: true }).catch(() => [])
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name)
}

/** A mirror that has found out that its disk takes nothing. */
export async function bypassing(t: Test, layers: number[], options: Parameters<typeof setUp>[2] = {}) {
  const world = await setUp(t, layers, options)
  world.disk.failing.set('create', 'EROFS')
  await pull(world.tag)
  await eventually('it is known', async () => (await bypasses(world.mirror)) > 0)
  return world
}
