/**
 * Transfer slot (of a semaphore) that one download holds at an upstream. `preempted`: a waiting client needs it.
 */
import type { TransferPriority, TransferSlots } from '../../upstream/limits/transfer-slots.ts'

interface TurnRequest {
  /** Asked again whenever it matters. */
  readonly priority: () => TransferPriority
  readonly owner: object
}

export class TransferSlot implements Disposable {
  readonly #preemption: AbortController
  readonly #slot: Disposable

  private constructor(slot: Disposable, preemption: AbortController) {
    this.#slot = slot
    this.#preemption = preemption
  }

  /** @throws the signal's reason */
  static async take(slots: TransferSlots, request: TurnRequest, signal: AbortSignal): Promise<TransferSlot> {
    const preemption = new AbortController()
    const preempt = (): void => preemption.abort(new Error('somebody else was asked for first'))
    return new TransferSlot(await slots.acquire({ ...request, preempt }, signal), preemption)
  }

  get preempted(): AbortSignal {
    return this.#preemption.signal
  }

  /** Releases the slot; a second time does nothing. */
  [Symbol.dispose](): void {
    this.#slot[Symbol.dispose]()
  }
}
