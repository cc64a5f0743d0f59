/**
 * Stall timeouts of one response, against slow-drip upstreams: limits for its head and for the rate of its body.
 *
 * Undici's time-outs start again with every interim answer and every byte, so a head or a body that trickles would
 * hold its connection forever. These do not.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { errors } from 'undici'

export interface StallLimits {
  /** From the request to the whole head of its answer. */
  readonly headers: Milliseconds
  /** Between two pieces of a body. The whole of it has no limit. */
  readonly idle: Milliseconds
  /** Bytes per second that a body must bring, on average of each {@link idle} of its time. Default 0: no limit. */
  readonly minRate?: Bytes | undefined
}

export class StallTimeouts {
  readonly #limits: StallLimits
  readonly #giveUp: (reason: Error) => void
  #timer: NodeJS.Timeout | undefined
  #received: Bytes = 0
  #excused = false

  /** @param giveUp called at most once, and not after {@link end} */
  constructor(limits: StallLimits, giveUp: (reason: Error) => void) {
    this.#limits = limits
    this.#giveUp = giveUp
  }

  /** Must be called when the request is sent, maybe twice: undici repeats it where its connection closed unused. */
  asked(): void {
    clearTimeout(this.#timer)
    const { headers } = this.#limits
    this.#timer = setTimeout(() => {
      this.#stop(new errors.HeadersTimeoutError(`no head within ${headers} ms`))
    }, headers)
  }

  /** Must be called with the head. A paused body is not judged: the reader holds it up, not the upstream. */
  answered(body: { readonly paused: boolean }): void {
    clearTimeout(this.#timer)
    const { idle, minRate = 0 } = this.#limits
    const wanted = (minRate * idle) / 1000
    if (wanted === 0) return
    this.#timer = setInterval(() => {
      if (this.#received < wanted && !this.#excused && !body.paused) {
        this.#stop(new errors.BodyTimeoutError(`only ${this.#received} bytes within ${idle} ms`))
      }
      this.#received = 0
      this.#excused = body.paused
    }, idle)
  }

  received(bytes: Bytes): void {
    this.#received += bytes
  }

  end(): void {
    clearTimeout(this.#timer)
  }

  #stop(reason: Error): void {
    this.end()
    this.#giveUp(reason)
  }
}
