/**
 * Priority semaphore of the blob transfers of one upstream.
 *
 * What a client asked for goes before what is fetched ahead, and takes the place of it when all are busy. A transfer
 * may want several turns: its further ones are `share`s, given to whoever holds fewest, so that one large layer never
 * takes what another waits for. There are fewer turns than connections, so that a manifest always finds one.
 */

/**
 * - `asked`: somebody waits for these very bytes
 * - `share`: somebody waits for what they belong to, and gets other bytes of it meanwhile
 * - `ahead`: nobody waits for them yet
 */
export type TransferPriority = 'asked' | 'share' | 'ahead'

interface TransferRequest {
  /** Asked again whenever it matters: what was fetched ahead may be asked for meanwhile. */
  priority(): TransferPriority
  /** Called at most once per turn: give it back soon and queue again. */
  preempt(): void
  /** What it is a part of; turns of one owner are counted together. Default: nothing. */
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
  /** In the order in which they got their turns. */
  readonly #holding = new Set<Holder>()

  constructor(maxConnections: number) {
    this.#capacity = Math.max(1, maxConnections - 2)
  }

  /** Resolves when it is the request's turn; disposing gives the turn back. */
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

  /** A client waits for the bytes that it asked for: a holder that can do without its turn for a while gives it back. */
  get contended(): boolean {
    for (const { request } of this.#waiting) if (request.priority() === 'asked') return true
    return false
  }

  /** To be called when a priority has changed. */
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

  /** Turns that its owner has, less those that are being taken from it. */
  #turnsOf({ owner }: TransferRequest): number {
    if (owner === undefined) return 0
    let turns = 0
    for (const { request, preempted } of this.#holding) if (request.owner === owner && !preempted) turns += 1
    return turns
  }

  /** Who waits for what is asked for, then who has least, then who has waited longest. */
  #next(): Waiter | undefined {
    return leastOf(this.#waiting, ({ request }) => [RANK[request.priority()], this.#turnsOf(request)])
  }

  /**
   * As many as there are asked ones waiting, less those already told: of what is fetched ahead before shares, from who
   * has most, the youngest.
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

/** The first of those that have the least. */
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
