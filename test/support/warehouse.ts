/**
 * A mirror with a budget, images to fill it with, and a clock that goes on with each pull.
 */
import { existsSync, readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { eventually, pull, settled, simulate, startMirror, type Mirror, type MirrorOptions } from './app.ts'
import { blobFile } from './folder.ts'
import { image, type Content, type Image } from './images.ts'
import type { UpstreamSimulator } from './upstream.ts'

export const KB = 1000

export interface Warehouse {
  readonly upstream: UpstreamSimulator
  readonly mirror: Mirror
  readonly clock: { now: number }
  /** At the upstream, with layers of that many bytes. */
  readonly offer: (name: string, layers: readonly number[], tag?: string) => Image
  /** As a client does: the manifest, then all it names. What came was right. @returns what `X-Cache` said */
  readonly pullImage: (name: string, image: Image, tag?: string) => Promise<(string | undefined)[]>
  /** What of it is on the disk. */
  readonly here: (image: Image) => 'all' | 'some' | 'none'
  readonly has: (content: Content) => boolean
  /**
   * Waits until all that is mirrored has at most that much, and nothing is here any more of what has to go, which was
   * told. Sizes alone do not tell that an eviction is through: in the middle of it they can be those before a download.
   */
  readonly within: (bytes: number, ...gone: readonly (Image | Content)[]) => Promise<void>
}

export async function openWarehouse(t: Test, options: MirrorOptions = {}): Promise<Warehouse> {
  const upstream = await simulate(t)
  const clock = { now: Date.now() }
  const mirror = await startMirror(t, upstream, {
    now: () => clock.now,
    ...options,
    cache: { prefetch: 'off', tagTtl: '30d', minFree: '0', ...options.cache },
  })
  return {
    ...{ upstream, mirror, clock, ...lookingAt(mirror) },
    offer: (name, layers, tag = '1') => {
      const offered = image({ layers, seed: `${name}:${tag}` })
      upstream.addImage(name, tag, offered)
      return offered
    },
    pullImage: async (name, { manifests, blobs, manifest }, tag = '1') => {
      clock.now += 1_000
      const url = `${mirror.url}/v2/${name}`
      const children = manifests.filter((it) => it !== manifest)
      const wanted = [
        ...[[`manifests/${tag}`, manifest] as const],
        ...children.map((it) => [`manifests/${it.digest}`, it] as const),
        ...blobs.map((it) => [`blobs/${it.digest}`, it] as const),
      ]
      const said: (string | undefined)[] = []
      for (const [what, { bytes }] of wanted) {
        const pulled = await pull(`${url}/${what}`)
        if (!pulled.body.equals(bytes)) throw new Error(`${name}/${what}: ${String(pulled.status)}`)
        said.push(pulled.cache)
      }
      await settled(mirror)
      return said
    },
  }
}

export function lookingAt({ app, url, root, lines }: Mirror): Pick<Warehouse, 'has' | 'here' | 'within'> {
  const has = ({ digest }: Content): boolean => existsSync(blobFile(root, digest))
  const here = ({ manifests, blobs }: Image): 'all' | 'some' | 'none' => {
    const all = [...manifests, ...blobs]
    const found = all.filter(has).length
    return found === 0 ? 'none' : found === all.length ? 'all' : 'some'
  }
  return {
    has,
    here,
    within: (bytes, ...gone) =>
      eventually(`at most ${bytes} bytes are here, and that is known`, async () => {
        const found = blobBytes(root) - (await app.metadata.eviction.stored()).pushed
        const stays = gone.some((it) => ('manifest' in it ? here(it) !== 'none' : has(it)))
        const told = gone.length === 0 || lines.some(({ msg }) => msg === 'evicted')
        return !stays && told && found <= bytes && found === (await cacheBytes(url))
      }),
  }
}

/** What the mirror last reckoned with. */
export async function cacheBytes(url: string): Promise<number> {
  const { body } = await pull(`${url}/metrics`)
  const series = body.toString().matchAll(/^entrepot_cache_bytes(?:\{[^}]*\})? (\S+)$/gm)
  return [...series].reduce((sum, [, bytes]) => sum + Number(bytes), 0)
}

/** The sum of all files of blobs. */
export function blobBytes(root: string): number {
  const folder = path.join(root, 'blobs')
  if (!existsSync(folder)) return 0
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce(
      (sum, entry) =>
        sum + (statSync(path.join(entry.parentPath, entry.name), { throwIfNoEntry: false })?.size ?? 0),
      0,
    )
}
