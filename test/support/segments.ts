/**
 * A mirror that cuts layers of 2 MiB and more into pieces of at most 1 MiB, four at once.
 */
import type { Test } from 'tap'
import { pull, simulate, startMirror, type MirrorOptions } from './app.ts'
import { image, type Content, type Image } from './images.ts'
import type { UpstreamOptions, UpstreamSimulator } from './upstream.ts'

const MiB = 2 ** 20
export const LARGE = 6 * MiB

export function large(seed: number, size = LARGE): Image {
  return image({ layers: [size], seed })
}

export async function prepare(
  t: Test,
  images: Image[],
  options: UpstreamOptions = {},
  more: MirrorOptions = {},
) {
  const upstream = await simulate(t, options)
  const mirror = await startMirror(t, upstream, {
    cache: { prefetch: 'off' },
    upstream: { segments: { size: '1MiB', parallel: 4 } },
    ...more,
  })
  for (const [at, it] of images.entries()) {
    upstream.addImage(`library/large${at}`, '1', it)
    await pull(`${mirror.url}/v2/library/large${at}/manifests/1`)
  }
  const blobUrl = (at: number): string =>
    `${mirror.url}/v2/library/large${at}/blobs/${layerOf(images[at]!).digest}`
  return { upstream, mirror, blobUrl }
}

export function layerOf({ blobs }: Image): Content {
  return blobs.toSorted((a, b) => b.bytes.length - a.bytes.length)[0]!
}

/** Requests that asked for a stretch of a blob, in the order of what they asked for. */
export function ranges(upstream: UpstreamSimulator): string[] {
  return upstream.log.of({ kind: 'blob', method: 'GET' }).map(({ headers }) => headers.range ?? 'all')
}

type When = (request: { headers: { range?: string | undefined } }) => boolean

/** Requests for a part that is not the first, or those of them whose turn, from 1 on, is within these. */
export function inside({ from = 1, to = Number.POSITIVE_INFINITY } = {}): When {
  let asked = 0
  return ({ headers }) => {
    if (!/^bytes=[1-9]/.test(headers.range ?? '')) return false
    asked += 1
    return asked >= from && asked <= to
  }
}
