/**
 * Limit of client connections, which leaves file descriptors for the blobs that they request and for the upstreams.
 *
 * A connection above the limit replaces the one that has been idle longest. Where none is idle its request is answered
 * 503, upon which clients try another mirror or retry. Beyond {@link SPARE} of those a connection is closed on arrival.
 */
import { outOfFiles } from '../base/open-files.ts'
import type { OciError } from '../oci/errors.ts'

/** Connections above the limit that are accepted to be answered 503. */
const SPARE = 32

/** Descriptors of the server itself: the index, its threads, the folder of downloads. */
const OWN = 64
/** Some clients are served however low the limit of open files is. */
const FEWEST = 8

interface Member {
  /** Unanswered requests. */
  readonly open: number
  /** Monotonic ms since which none is unanswered. */
  readonly idleSince: number
}

/**
 * Half of what remains for clients goes to their connections, the other half to the files that they read or write.
 *
 * @param limit of the process's open files
 * @param upstreams configured limit of the connections to all upstreams
 */
export function mostConnectionsOf(limit: number, upstreams: number): number {
  const others = OWN + Math.min(upstreams, limit >> 2)
  return Math.max(FEWEST, (limit - others - SPARE) >> 1)
}

export class ConnectionLimit<Socket extends { destroy(): unknown }> {
  #most: number
  readonly #memberOf: (socket: Socket) => Member
  readonly #sockets = new Set<Socket>()
  /** Connections above the limit. */
  readonly #surplus = new WeakSet<Socket>()

  /** @param most undefined: no limit */
  constructor(most: number | undefined, memberOf: (socket: Socket) => Member) {
    this.#most = most ?? Infinity
    this.#memberOf = memberOf
  }

  /** Connections that exist already stay. */
  limitTo(most: number): void {
    this.#most = most
  }

  /** Number that the server may accept; it closes the rest at once. */
  get acceptable(): number {
    return this.#most + SPARE
  }

  get isFull(): boolean {
    return this.#sockets.size > this.#most
  }

  /** @returns false when the connection is above the limit, and none was idle */
  enter(socket: Socket): boolean {
    this.#sockets.add(socket)
    if (!this.isFull) return true
    const idle = this.#longestIdle(socket)
    if (idle === undefined) {
      this.#surplus.add(socket)
      return false
    }
    // Its `close` event comes too late: the next connection would find it idle still, and replace it a second time.
    this.#sockets.delete(idle)
    idle.destroy()
    return true
  }

  leave(socket: Socket): void {
    this.#sockets.delete(socket)
  }

  /** @returns the error that answers a request on this connection; undefined: it is served */
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
