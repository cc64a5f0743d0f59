/**
 * Disk space for pushes: reserved before the body comes, and checked again while it comes.
 *
 * A push takes the place of mirrored content, and of uploads that stopped for lack of room, but only where that is
 * enough; it never takes what `cache.minFree` keeps free. No push is refused for which an eviction would make room,
 * and nothing is evicted for a push that is refused anyway.
 */
import type { Bytes } from '../../base/units.ts'
import { noRoom } from './disk-space.ts'

interface PushRoomOptions {
  /** Free bytes that a push may take; negative when less than `minFree` is left. */
  readonly headroom: () => Promise<Bytes>
  /** True when all that may go amounts to so many bytes. */
  readonly canFree: (bytes: Bytes) => Promise<boolean>
  /** @returns whether it freed anything */
  readonly makeRoom: (bytes: Bytes) => Promise<boolean>
}

/** The space for a body of unknown length is checked each time so much of it has come. */
const STEP: Bytes = 4 * 1024 * 1024

/** Other writers may take what was freed for this push, so it evicts up to so many times. */
const MOST_ROUNDS = 4

/** A refusal counts as at most so large: that of a larger upload says little of how full the disk is. */
const LARGE: Bytes = 16 * 1024 * 1024

/** Holds the reservation of one body until it is disposed. */
export interface ExpectedBytes extends Disposable {
  /** Called before so many bytes are written. @throws an error with the code ENOSPC when there is no room for them */
  arrive(bytes: Bytes): Promise<void>
}

interface Expected {
  left: Bytes
  /** Bytes beyond the announced length since the last check. */
  untold: Bytes
}

export class PushSpace {
  readonly #options: PushRoomOptions
  readonly #expected = new Set<Expected>()
  /** The size of the last refused push; while less than that is free, the disk counts as full. */
  #refused: Bytes | undefined

  constructor(options: PushRoomOptions) {
    this.#options = options
  }

  /**
   * @param bytes undefined when the client has not said
   * @throws an error with the code ENOSPC when the disk cannot give so much
   */
  async expect(bytes: Bytes | undefined): Promise<ExpectedBytes> {
    // A body of unknown length is checked at its first bytes: a client may break off before there are any.
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

  /** For a push that says nothing of its size yet: evicts nothing. @throws an error with the code ENOSPC */
  async begin(): Promise<void> {
    if (!(await this.#isExhausted(await this.#headroom()))) return
    throw this.#refuse(0)
  }

  /** True while pushes are refused. */
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

  /** @param bytes the part of the expected bytes that this call asks for */
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

  /** Where the free space cannot be read, a push finds out by writing. */
  #headroom(): Promise<Bytes> {
    return this.#options.headroom().catch(() => Infinity)
  }
}
