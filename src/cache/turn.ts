/**
 * A turn to transfer from an upstream. Whoever must give it up for somebody that waits sees `preempted`.
 */
import type { TransferPriority, TransferSlots } from '../upstream/slots.ts'

export class Turn implements Disposable {
  readonly #preemption: AbortController
  readonly #slot: Disposable

  private constructor(slot: Disposable, preemption: AbortController) {
    this.#slot = slot
    this.#preemption = preemption
  }

  /** @throws the signal's reason */
  static async take(
    slots: TransferSlots,
    priority: () => TransferPriority,
    signal: AbortSignal,
  ): Promise<Turn> {
    const preemption = new AbortController()
    const preempt = (): void => preemption.abort(new Error('somebody else was asked for first'))
    return new Turn(await slots.acquire({ priority, preempt }, signal), preemption)
  }

  get preempted(): AbortSignal {
    return this.#preemption.signal
  }

  /** Gives it back; a second time does nothing. */
  [Symbol.dispose](): void {
    this.#slot[Symbol.dispose]()
  }
}
