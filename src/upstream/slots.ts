/**
 * Turns for blob transfers of one upstream.
 *
 * What a client asked for goes before what is fetched ahead, and takes the place of it when all are busy.
 * There are fewer turns than connections, so that a manifest always finds one.
 */

export type TransferPriority = 'asked' | 'ahead'

interface TransferRequest {
  /** Asked again whenever it matters: what was fetched ahead may be asked for meanwhile. */
  priority(): TransferPriority
  /** Called at most once per turn: give it back soon and queue again. */
  preempt(): void
}

export interface TransferSlots {
  /** Resolves when it is the request's turn; disposing gives the turn back. */
  acquire(request: TransferRequest, signal: AbortSignal): Promise<Disposable>
  /** To be called when a priority has changed. */
  reconsider(): void
}

interface Waiter {
  readonly request: TransferRequest
  readonly grant: () => void
}

interface Holder {
  readonly request: TransferRequest
  preempted: boolean
}

export class PrioritySlots implements TransferSlots {
  readonly #capacity: number
  readonly #waiting = new Set<Waiter>()
  /** In the order in which they got their turns. */
  readonly #holding = new Set<Holder>()

  constructor(maxConnections: number) {
    this.#capacity = Math.max(1, maxConnections - 2)
  }

  async acquire(request: TransferRequest, signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted()
    return await new Promise<Disposable>((resolve, reject) => {
      const leave = (): void => {
        this.#waiting.delete(waiter)
        // Its reason is what every other wait of this project rejects with.
        reject(signal.reason as Error)
      }
      const waiter: Waiter = {
        request,
        grant: () => {
          signal.removeEventListener('abort', leave)
          resolve(this.#hold(request))
        },
      }
      signal.addEventListener('abort', leave, { once: true })
      this.#waiting.add(waiter)
      this.reconsider()
    })
  }

  reconsider(): void {
    while (this.#holding.size < this.#capacity) {
      const next = this.#next()
      if (next === undefined) return
      this.#waiting.delete(next)
      next.grant()
    }
    this.#preempt()
  }

  #hold(request: TransferRequest): Disposable {
    const holder: Holder = { request, preempted: false }
    this.#holding.add(holder)
    return {
      [Symbol.dispose]: () => {
        if (this.#holding.delete(holder)) this.reconsider()
      },
    }
  }

  #next(): Waiter | undefined {
    const waiting = [...this.#waiting]
    return waiting.find(({ request }) => request.priority() === 'asked') ?? waiting[0]
  }

  /** As many of the youngest fetched ahead as there are asked ones waiting, less those already told. */
  #preempt(): void {
    let wanted = [...this.#waiting].filter(({ request }) => request.priority() === 'asked').length
    const holding = [...this.#holding].reverse()
    wanted -= holding.filter(({ preempted }) => preempted).length
    for (const holder of holding) {
      if (wanted <= 0) return
      if (!this.#holding.has(holder) || holder.preempted || holder.request.priority() !== 'ahead') continue
      holder.preempted = true
      wanted -= 1
      holder.request.preempt()
    }
  }
}
