/**
 * What the clients of a soak do, one thing after the other, by luck: pulls of whole images, parts, goodbyes in the
 * middle, questions, lists; and now and then a push.
 */
import type { Digest } from '../../../src/oci/digest.ts'
import type { Content, Image } from '../../../test/support/images.ts'
import type { Asking, Wish } from './asking.ts'
import type { Pushes } from './pushed.ts'
import type { Tagged, World } from './world.ts'

/** As a Docker daemon does. */
const AT_ONCE = 3

export interface ClientsOptions {
  readonly world: World
  readonly asking: Asking
  readonly pushes: Pushes
  readonly random: () => number
  /** Whether there is time, and a request, left. */
  readonly goOn: () => boolean
}

export class Clients {
  readonly #options: ClientsOptions
  readonly #actions: readonly (readonly [weight: number, act: () => Promise<unknown>])[]

  constructor(options: ClientsOptions) {
    this.#options = options
    const { pushes } = options
    this.#actions = [
      [45, () => this.#pull(this.#someTag())],
      [12, () => this.#part()],
      [8, () => this.#leave()],
      [10, () => this.#heads()],
      [3, () => this.#absent()],
      [3, () => this.#lists()],
      [10, () => pushes.pull()],
      [6, () => pushes.push()],
      [2, () => pushes.giveUp()],
      [0.1, () => this.#pull(options.world.giant)],
    ]
  }

  /** So many of them, until it is over. */
  async run(count: number): Promise<void> {
    const client = async (): Promise<void> => {
      while (this.#options.goOn()) await this.#act()
    }
    await Promise.all(Array.from({ length: count }, client))
  }

  async #act(): Promise<void> {
    const sum = this.#actions.reduce((total, [weight]) => total + weight, 0)
    let at = this.#options.random() * sum
    for (const [weight, act] of this.#actions) {
      at -= weight
      if (at < 0) {
        await act()
        return
      }
    }
  }

  /** Few of them most of the time, all of them now and then. */
  #someTag(): Tagged {
    const { random, world } = this.#options
    const it = world.tags[Math.floor(random() ** 3 * world.tags.length)]
    if (it === undefined) throw new Error('there is nothing to pull')
    return it
  }

  /** Everything a daemon asks for: tag, child, then config and layers. */
  async #pull(it: Tagged): Promise<void> {
    const got = await this.#manifests(it)
    if (got === undefined) return
    const waiting = [...got.image.blobs]
    const worker = async (): Promise<void> => {
      for (let blob = waiting.shift(); blob !== undefined; blob = waiting.shift()) {
        await this.#options.asking.get(this.#blob(it, got, blob))
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, worker))
  }

  async #part(): Promise<void> {
    const { asking, random } = this.#options
    const it = this.#someTag()
    const got = await this.#manifests(it)
    const layer = got?.image.layers[Math.floor(random() * got.image.layers.length)]
    if (got === undefined || layer === undefined) return
    const start = Math.floor(random() * layer.bytes.length)
    const end = start + 1 + Math.floor(random() * (layer.bytes.length - start))
    await asking.get({ ...this.#blob(it, got, layer), range: { start, end } })
  }

  async #leave(): Promise<void> {
    const { asking, random } = this.#options
    const it = this.#someTag()
    const got = await this.#manifests(it)
    const layer = got?.image.layers[2] ?? got?.image.layers[0]
    if (got === undefined || layer === undefined) return
    await asking.get({ ...this.#blob(it, got, layer), leaveAfter: random() * layer.bytes.length })
  }

  async #heads(): Promise<void> {
    const { asking } = this.#options
    const it = this.#someTag()
    await asking.get({ ...this.#tag(it), method: 'HEAD' })
    const got = await this.#manifests(it)
    const [config] = got?.image.blobs ?? []
    if (got !== undefined && config !== undefined)
      await asking.get({ ...this.#blob(it, got, config), method: 'HEAD' })
  }

  async #absent(): Promise<void> {
    const { upstream, repo } = this.#someTag()
    await this.#options.asking.get({
      path: `${upstream}/${repo}/manifests/nobody-made-this`,
      ...{ upstream, absent: true },
    })
  }

  async #lists(): Promise<void> {
    const { asking } = this.#options
    const { upstream, repo } = this.#someTag()
    await asking.get({ path: '_catalog?n=50' })
    await asking.get({ path: `${upstream}/${repo}/tags/list`, upstream })
  }

  async #manifests(it: Tagged): Promise<Got | undefined> {
    const { asking } = this.#options
    const bytes = await asking.get(this.#tag(it))
    const image = it.versions.find(({ manifest }) => bytes !== undefined && manifest.bytes.equals(bytes))
    if (image === undefined) return undefined
    const [child] = image.manifests
    if (child === undefined || child === image.manifest) return { image, manifests: [image.manifest.digest] }
    const { digest } = child
    const manifests = [image.manifest.digest, digest]
    const { upstream, repo } = it
    const path = `${upstream}/${repo}/manifests/${digest}`
    const got = await asking.get({ path, upstream, needs: manifests, oneOf: [digest] })
    return got === undefined ? undefined : { image, manifests }
  }

  #tag({ upstream, repo, tag, versions }: Tagged): Wish {
    const oneOf = versions.map(({ manifest }) => manifest.digest)
    // Whichever it names now: as long as all that were served are here, one of them can be.
    return { path: `${upstream}/${repo}/manifests/${tag}`, upstream, oneOf, needs: [...new Set(oneOf)] }
  }

  #blob({ upstream, repo }: Tagged, { manifests }: Got, { digest, bytes }: Content): Wish {
    const needs = [...manifests, digest]
    return { path: `${upstream}/${repo}/blobs/${digest}`, upstream, needs, expected: bytes }
  }
}

interface Got {
  readonly image: Image
  readonly manifests: readonly Digest[]
}
