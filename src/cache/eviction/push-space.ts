/**
 * Room for what is pushed: asked for before it comes, and again while it comes.
 *
 * What is pushed takes the place of what is mirrored, and of uploads that found no room, but only where that is
 * enough; it never takes what `cache.minFree` keeps free. Nobody is refused who would find room after an eviction, and
 * nothing is evicted for whoever is refused anyway.
 */
import type { Bytes } from '../../base/units.ts'
import { noRoom } from './disk-space.ts'

interface PushRoomOptions {
  /** What of the file system is free, and may be taken by a push; less than 0 where even less is left. */
  readonly headroom: () => Promise<Bytes>
  /** Whether all that may go is so much. */
  readonly canFree: (bytes: Bytes) => Promise<boolean>
  /** @returns whether it freed anything */
  readonly makeRoom: (bytes: Bytes) => Promise<boolean>
}

/** A body whose length nobody has told is looked after each time so much of it has come. */
const STEP: Bytes = 4 * 1024 * 1024

/** Others take what was freed for us. */
const MOST_ROUNDS = 4

/** What an upload is refused that is larger than this says little of how full the disk is. */
const LARGE: Bytes = 16 * 1024 * 1024

/** What is still to come, until it is disposed. */
export interface ExpectedBytes extends Disposable {
  /** So many are about to be written. @throws an error with the code ENOSPC when there is no room for them */
  arrive(bytes: Bytes): Promise<void>
}

interface Expected {
  left: Bytes
  /** Came without having been told, since the last look. */
  untold: Bytes
}

export class PushSpace {
  readonly #options: PushRoomOptions
  readonly #expected = new Set<Expected>()
  /** What the last one who was refused would have needed. */
  #refused: Bytes | undefined

  constructor(options: PushRoomOptions) {
    this.#options = options
  }

  /**
   * @param bytes undefined: nobody has told
   * @throws an error with the code ENOSPC when the disk has not got so much to give
   */
  async expect(bytes: Bytes | undefined): Promise<ExpectedBytes> {
    // Of what nobody announced the first bytes are looked at: who breaks off meanwhile should have been read.
    const expected = { left: bytes ?? 0, untold: bytes === undefined ? STEP : 0 }
    this.#expected.add(expected)
    try {
      if (bytes !== undefined) await this.#ensure(bytes)
    } catch (error) {
      this.#expected.delete(expected)
      throw error
    }
    return {
      arrive: (count) => this.#arrive(expected, count),
      [Symbol.dispose]: () => this.#expected.delete(expected),
    }
  }

  /** Of a push that says nothing of its size yet: nothing goes for it. @throws an error with the code ENOSPC */
  async begin(): Promise<void> {
    if (!(await this.#isExhausted(await this.#headroom()))) return
    throw this.#refuse(0)
  }

  /** Pushes are refused. */
  async isFull(): Promise<boolean> {
    const headroom = await this.#headroom()
    if (this.#refused !== undefined && headroom < this.#refused) return true
    this.#refused = undefined
    return this.#isExhausted(headroom)
  }

  async #isExhausted(headroom: Bytes): Promise<boolean> {
    return headroom <= 0 && !(await this.#options.canFree(1 - headroom))
  }

  #refuse(bytes: Bytes): Error {
    this.#refused = Math.min(Math.max(bytes, 1), LARGE)
    return noRoom()
  }

  async #arrive(expected: Expected, count: Bytes): Promise<void> {
    const told = Math.min(expected.left, count)
    expected.left -= told
    expected.untold += count - told
    if (expected.untold < STEP) return
    expected.untold = 0
    await this.#ensure(0)
  }

  /** @param bytes of those that are expected, what it is asked for */
  async #ensure(bytes: Bytes): Promise<void> {
    const { canFree, makeRoom } = this.#options
    for (let round = 1; ; round++) {
      const lacking = await this.#lacking()
      if (lacking <= 0) break
      if (round <= MOST_ROUNDS && (await canFree(lacking)) && (await makeRoom(lacking))) continue
      throw this.#refuse(bytes)
    }
    if (this.#refused !== undefined && bytes >= this.#refused) this.#refused = undefined
  }

  async #lacking(): Promise<Bytes> {
    const headroom = await this.#headroom()
    let lacking: Bytes = -headroom
    for (const { left } of this.#expected) lacking += left
    return lacking
  }

  /** Whoever cannot be told how much room there is finds out by writing. */
  #headroom(): Promise<Bytes> {
    return this.#options.headroom().catch(() => Infinity)
  }
}
