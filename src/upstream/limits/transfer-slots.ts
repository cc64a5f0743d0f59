/**
 * Priority semaphore of the blob transfers of one upstream.
 *
 * Transfers that clients wait for go before prefetches, and take turns when all slots are busy. A transfer may want
 * several slots: its further ones are `share`s, given to the owner that holds fewest, so that one large layer never
 * takes the slot that another waits for. There are fewer slots than connections, so that a manifest always finds one.
 */

/**
 * - `asked`: a client waits for these very bytes
 * - `share`: a client waits for the blob, and gets other bytes of it meanwhile
 * - `ahead`: no client waits for the blob yet
 */
export type TransferPriority = 'asked' | 'share' | 'ahead'

interface TransferRequest {
  /** Read whenever it matters: a client may ask meanwhile for what was fetched ahead. */
  priority(): TransferPriority
  /** Called at most once per slot: the holder must give it back soon, and queue again. */
  preempt(): void
  /** The transfer that it is a part of: slots of one owner are counted together. */
  readonly owner?: object | undefined
}

interface Waiter {
  readonly request: TransferRequest
  readonly grant: () => void
}

interface Holder {
  readonly request: TransferRequest
  preempted: boolean
}

const RANK: Record<TransferPriority, number> = { asked: 0, share: 1, ahead: 2 }

export class TransferSlots {
  readonly #capacity: number
  readonly #waiting = new Set<Waiter>()
  /** In the order in which they got their slots. */
  readonly #holding = new Set<Holder>()

  constructor(maxConnections: number) {
    this.#capacity = Math.max(1, maxConnections - 2)
  }

  /** Resolves when the request has a slot; disposing gives the slot back. */
  async acquire(request: TransferRequest, signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted()
    return await new Promise<Disposable>((resolve, reject) => {
      const leave = (): void => {
        this.#waiting.delete(waiter)
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

  /** A client waits for the bytes that it asked for: a holder that can pause gives its slot back. */
  get contended(): boolean {
    for (const { request } of this.#waiting) if (request.priority() === 'asked') return true
    return false
  }

  /** Must be called when a priority has changed. */
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

  /** The owner's slots, less those that are being preempted. */
  #turnsOf({ owner }: TransferRequest): number {
    if (owner === undefined) return 0
    let turns = 0
    for (const { request, preempted } of this.#holding) if (request.owner === owner && !preempted) turns += 1
    return turns
  }

  /** Chooses by priority, then by the fewest slots, then by the longest wait. */
  #next(): Waiter | undefined {
    return leastOf(this.#waiting, ({ request }) => [RANK[request.priority()], this.#turnsOf(request)])
  }

  /**
   * Preempts as many holders as `asked` requests wait, less those already preempted: `ahead` before `share`, of the
   * owner with most slots, the youngest first.
   */
  #preempt(): void {
    let wanted = [...this.#waiting].filter(({ request }) => request.priority() === 'asked').length
    for (const { preempted } of this.#holding) if (preempted) wanted -= 1
    while (wanted > 0) {
      const others = [...this.#holding].filter((it) => !it.preempted && it.request.priority() !== 'asked')
      const victim = leastOf(others.reverse(), ({ request }) => [
        -RANK[request.priority()],
        -this.#turnsOf(request),
      ])
      if (victim === undefined) return
      victim.preempted = true
      wanted -= 1
      victim.request.preempt()
    }
  }
}

/** The first of the least. */
function leastOf<T>(all: Iterable<T>, measure: (it: T) => readonly [number, number]): T | undefined {
  let least: { readonly it: T; readonly first: number; readonly second: number } | undefined
  for (const it of all) {
    const [first, second] = measure(it)
    if (least === undefined || first < least.first || (first === least.first && second < least.second)) {
      least = { it, first, second }
    }
  }
  return least?.it
}
