/**
 * What the soak's registries hold: some times more than the budget takes, so that nothing may stay for good.
 */
import type { Digest } from '../../../src/oci/digest.ts'
import { image, index, type Image } from '../../../test/support/images.ts'
import { startUpstream, type UpstreamSimulator } from '../../../test/support/upstream.ts'

const KiB = 1024
const MiB = 1024 * KiB
/** All images together, in budgets. */
const PLENTY = 3
const AVERAGE = 5 * MiB
/** Distributions that several images of an upstream build upon. */
const BASES = 4

/** A tag, and what it may be: it moves from one to the other and back. */
export interface Tagged {
  readonly upstream: string
  readonly repo: string
  readonly tag: string
  readonly versions: readonly [Image, Image]
}

export class World implements AsyncDisposable {
  readonly upstreams: ReadonlyMap<string, UpstreamSimulator>
  readonly tags: readonly Tagged[]
  /** One layer of it is larger than the whole budget. */
  readonly giant: Tagged
  /** Everything that any registry ever held. */
  readonly bytes = new Map<Digest, Buffer>()

  private constructor(upstreams: ReadonlyMap<string, UpstreamSimulator>, tags: Tagged[], giant: Tagged) {
    this.upstreams = upstreams
    this.tags = tags
    this.giant = giant
    for (const { versions } of [...tags, giant]) {
      for (const { manifests, blobs } of versions) {
        for (const { digest, bytes } of [...manifests, ...blobs]) this.bytes.set(digest, bytes)
      }
    }
  }

  static async start(budget: number): Promise<World> {
    const many = { limit: 1_000_000 }
    const upstreams = new Map([
      ['docker.io', await startUpstream({ token: {}, rateLimit: many })],
      ['quay.io', await startUpstream({ rateLimit: { ...many, counts: 'all' } })],
      ['ghcr.io', await startUpstream({ cdn: {} })],
    ])
    const each = Math.ceil((budget * PLENTY) / AVERAGE / upstreams.size)
    const tags: Tagged[] = []
    for (const key of upstreams.keys()) {
      for (let number = 0; number < each; number++) tags.push(tagged(key, number))
    }
    const layers = [{ size: Math.ceil(budget * 1.1), seed: 'giant' }]
    const big = image({ layers, seed: 'giant' })
    const giant = { upstream: 'ghcr.io', repo: 'big/giant', tag: '1', versions: [big, big] } as const
    const world = new World(upstreams, tags, giant)
    for (const it of [...tags, giant]) world.move(it, 0)
    return world
  }

  move({ upstream, repo, tag, versions }: Tagged, to: 0 | 1): void {
    this.upstreams.get(upstream)?.moveTag(repo, tag, versions[to])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.upstreams.values()].map((it) => it.close()))
  }
}

/** Over one of the bases; its versions differ in the last layer. */
function tagged(upstream: string, number: number): Tagged {
  const seed = `${upstream}/${String(number)}`
  const base = `${upstream} base ${String(number % BASES)}`
  // From half a MiB to nearly six.
  const own = 512 * KiB + ((number * 7) % 11) * 512 * KiB
  const version = (it: number): Image =>
    index({
      images: {
        amd64: image({
          seed: `${seed} ${String(it)}`,
          layers: [
            { size: MiB, seed: base },
            { size: 200 * KiB, seed: `${base} too` },
            { size: own, seed },
            { size: 100 * KiB, seed: `${seed} ${String(it)}` },
          ],
        }),
      },
    })
  return { upstream, repo: `team/app${String(number)}`, tag: 'latest', versions: [version(0), version(1)] }
}
