/**
 * What clients of the soak have pushed, and what is to be found of it: everything that was acknowledged and not
 * deleted since.
 */
import { image, type Image } from '../../../test/support/images.ts'
import type { Asking } from './asking.ts'

const KiB = 1024

interface Pushed {
  readonly name: string
  readonly tag: string
  readonly seed: string
  /** It is not deleted meanwhile. */
  readers: number
}

export class Pushes {
  /** Acknowledged. */
  readonly #there: Pushed[] = []
  readonly #gone: Pushed[] = []
  acknowledged = 0
  deleted = 0
  readonly #asking: Asking
  readonly #random: () => number
  readonly #most: number

  /** @param most that are there at once: then one has to go before another one comes */
  constructor(asking: Asking, random: () => number, most: number) {
    this.#asking = asking
    this.#random = random
    this.#most = most
  }

  get alive(): number {
    return this.#there.length
  }

  async push(): Promise<void> {
    if (this.#there.length >= this.#most) await this.#delete()
    const number = this.acknowledged + this.deleted + Math.floor(this.#random() * 1e9)
    const it: Pushed = {
      name: `team/own${String(number % 7)}`,
      tag: `v${String(number)}`,
      seed: `pushed ${String(number)}`,
      readers: 0,
    }
    const made = imageOf(it)
    for (const { digest, bytes } of made.blobs) {
      if (!(await this.#upload(it.name, digest, bytes))) return
    }
    const { bytes, mediaType } = made.manifest
    const path = `${it.name}/manifests/${it.tag}`
    if (
      (await this.#asking.send('PUT', path, { body: bytes, type: mediaType, expected: [201] })) === undefined
    )
      return
    this.acknowledged += 1
    this.#there.push(it)
  }

  /** A client that goes in the middle of a body: nothing was promised, and nothing may be left of it. */
  async giveUp(): Promise<void> {
    const begun = await this.#begin('team/own0')
    if (begun === undefined) return
    await this.#asking.leaveUpload(begun, Buffer.alloc(300 * KiB, 1))
  }

  async pull(): Promise<void> {
    const it = this.#there[Math.floor(this.#random() * this.#there.length)]
    if (it === undefined) return
    it.readers += 1
    try {
      await this.#look(it)
    } finally {
      it.readers -= 1
    }
  }

  /** All that was acknowledged is there, and nothing that was deleted. @returns how many were looked at */
  async lookAtAll(): Promise<number> {
    for (const it of this.#there) await this.#look(it)
    for (const { name, tag } of this.#gone.slice(-50)) {
      await this.#asking.get({ path: `${name}/manifests/${tag}`, absent: true })
    }
    return this.#there.length
  }

  async #look(it: Pushed): Promise<void> {
    const { manifest, blobs } = imageOf(it)
    const path = `${it.name}/manifests/${it.tag}`
    await this.#asking.get({ path, oneOf: [manifest.digest] })
    for (const { digest, bytes } of blobs) {
      await this.#asking.get({ path: `${it.name}/blobs/${digest}`, expected: bytes })
    }
  }

  async #delete(): Promise<void> {
    const at = this.#there.findIndex(({ readers }) => readers === 0)
    const [it] = at < 0 ? [] : this.#there.splice(at, 1)
    if (it === undefined) return
    await this.#asking.send('DELETE', `${it.name}/manifests/${it.tag}`, { expected: [202] })
    this.deleted += 1
    this.#gone.push(it)
  }

  async #upload(name: string, digest: string, bytes: Buffer): Promise<boolean> {
    const begun = await this.#begin(name)
    if (begun === undefined) return false
    const half = bytes.length >> 1
    const type = 'application/octet-stream'
    const sent = await this.#asking.send('PATCH', begun, {
      ...{ body: bytes.subarray(0, half), type, expected: [202] },
    })
    if (sent === undefined) return false
    const end = new URL(String(sent['location']), 'http://here')
    end.searchParams.set('digest', digest)
    const path = `${end.pathname}${end.search}`
    return (
      (await this.#asking.send('PUT', path, { body: bytes.subarray(half), type, expected: [201] })) !==
      undefined
    )
  }

  /** @returns where to go on */
  async #begin(name: string): Promise<string | undefined> {
    const begun = await this.#asking.send('POST', `${name}/blobs/uploads/`, { expected: [202] })
    return begun === undefined ? undefined : new URL(String(begun['location']), 'http://here').pathname
  }
}

/** All share one layer, wherever they are. */
function imageOf({ seed }: Pushed): Image {
  const size = 64 * KiB + (Number(seed.slice(-2)) % 10) * 100 * KiB
  return image({
    seed,
    layers: [
      { size: 256 * KiB, seed: 'pushed base' },
      { size, seed },
    ],
  })
}
