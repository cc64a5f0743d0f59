/**
 * Limit of the connections that clients may hold, so that the files that they ask for and the upstreams can still be
 * opened.
 *
 * One more than that takes the place of the one that has been idle for longest. Where none is idle it is refused: its
 * request is answered 503, which makes clients go elsewhere or come back. Beyond {@link SPARE} of those a connection
 * is closed as it comes.
 */
import { outOfFiles } from '../base/open-files.ts'
import type { OciError } from '../oci/errors.ts'

/** Those that are let in to be told that there are too many. */
const SPARE = 32

/** What a running server has open by itself: the index, its threads, the folder of downloads. */
const OWN = 64
/** However few there may be, some clients are served. */
const FEWEST = 8

interface Member {
  /** Requests that are not answered yet. */
  readonly open: number
  /** Since when there are none, of a clock that is never set back. */
  readonly idleSince: number
}

/**
 * Half of what is left to clients is for their connections, the other for the files that they read or write.
 *
 * @param limit of the process's open files
 * @param upstreams the most connections that the configuration allows to all of them
 */
export function mostConnectionsOf(limit: number, upstreams: number): number {
  const others = OWN + Math.min(upstreams, limit >> 2)
  return Math.max(FEWEST, (limit - others - SPARE) >> 1)
}

export class ConnectionLimit<Socket extends { destroy(): unknown }> {
  #most: number
  readonly #memberOf: (socket: Socket) => Member
  readonly #sockets = new Set<Socket>()
  /** Those for which there was no place. */
  readonly #surplus = new WeakSet<Socket>()

  /** @param most undefined: as many as come */
  constructor(most: number | undefined, memberOf: (socket: Socket) => Member) {
    this.#most = most ?? Infinity
    this.#memberOf = memberOf
  }

  /** From now on there may be so many; whoever is here already stays. */
  limitTo(most: number): void {
    this.#most = most
  }

  /** How many may be accepted at all; the rest is closed at once. */
  get acceptable(): number {
    return this.#most + SPARE
  }

  /** Those for which there is a place are all taken. */
  get isFull(): boolean {
    return this.#sockets.size > this.#most
  }

  /** It has come. @returns false when there is no place for it */
  enter(socket: Socket): boolean {
    this.#sockets.add(socket)
    if (!this.isFull) return true
    const idle = this.#longestIdle(socket)
    if (idle === undefined) {
      this.#surplus.add(socket)
      return false
    }
    // Before it is gone itself: another one that comes now needs a place of its own.
    this.#sockets.delete(idle)
    idle.destroy()
    return true
  }

  leave(socket: Socket): void {
    this.#sockets.delete(socket)
  }

  /** What a request on that connection is answered with; undefined: it is served. */
  refusal(socket: Socket): OciError | undefined {
    return this.isFull && this.#surplus.has(socket) ? outOfFiles() : undefined
  }

  #longestIdle(newcomer: Socket): Socket | undefined {
    let longest: Socket | undefined
    let since = Infinity
    for (const socket of this.#sockets) {
      const { open, idleSince } = this.#memberOf(socket)
      if (open > 0 || socket === newcomer || idleSince >= since) continue
      longest = socket
      since = idleSince
    }
    return longest
  }
}
