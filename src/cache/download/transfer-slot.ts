/**
 * A turn to transfer from an upstream. Whoever must give it up for somebody that waits sees `preempted`.
 */
import type { TransferPriority, TransferSlots } from '../../upstream/limits/transfer-slots.ts'

interface TurnRequest {
  /** Asked again whenever it matters. */
  readonly priority: () => TransferPriority
  /** What it is a part of. */
  readonly owner: object
}

export class Turn implements Disposable {
  readonly #preemption: AbortController
  readonly #slot: Disposable

  private constructor(slot: Disposable, preemption: AbortController) {
    this.#slot = slot
    this.#preemption = preemption
  }

  /** @throws the signal's reason */
  static async take(slots: TransferSlots, request: TurnRequest, signal: AbortSignal): Promise<Turn> {
    const preemption = new AbortController()
    const preempt = (): void => preemption.abort(new Error('somebody else was asked for first'))
    return new Turn(await slots.acquire({ ...request, preempt }, signal), preemption)
  }

  get preempted(): AbortSignal {
    return this.#preemption.signal
  }

  /** Gives it back; a second time does nothing. */
  [Symbol.dispose](): void {
    this.#slot[Symbol.dispose]()
  }
}
