/**
 * One line of work of an emulated client, and the time that the real one would have needed for it.
 *
 * Pauses are slept {@link PACE} times as fast and counted in full. Lines that run beside each other are as late
 * as the latest of them.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { ConnectionError, type Answer, type Endpoint, type Head, type Wire } from './wire.ts'

/** Pauses of a minute must not take one. */
const PACE = 50

export class Strand {
  readonly wire: Wire
  readonly signal: AbortSignal
  /** Milliseconds that the real client would be behind us. */
  late: number

  constructor(wire: Wire, signal: AbortSignal, late = 0) {
    this.wire = wire
    this.signal = signal
    this.late = late
  }

  /** @param headersMs the real client's time-out until the head of the answer */
  async ask(
    endpoint: Endpoint,
    method: 'GET' | 'HEAD',
    path: string,
    head: Head,
    headersMs?: number,
  ): Promise<Answer> {
    // Nobody waits for 30 s here; what was cut off is counted.
    const waited = headersMs === undefined ? undefined : Math.min(headersMs, this.wire.hangMs)
    try {
      return await this.wire.ask(endpoint, method, path, head, { signal: this.signal, headersMs: waited })
    } catch (error) {
      if (error instanceof ConnectionError && error.breakage === 'late') {
        this.late += (headersMs ?? 0) - (waited ?? 0)
      }
      throw error
    }
  }

  async pause(ms: number): Promise<void> {
    await sleep(ms / PACE, undefined, { signal: this.signal }).catch(() => this.signal.throwIfAborted())
    this.late += ms - ms / PACE
  }

  /** `work` on all items, at most `limit` at once. The first failure calls off the others. */
  async all<T>(
    limit: number,
    items: readonly T[],
    work: (item: T, strand: Strand) => Promise<void>,
  ): Promise<void> {
    const calledOff = new AbortController()
    const signal = AbortSignal.any([this.signal, calledOff.signal])
    const waiting = [...items]
    const line = async (): Promise<number> => {
      const strand = new Strand(this.wire, signal, this.late)
      for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) {
        try {
          await work(item, strand)
        } catch (error) {
          if (!calledOff.signal.aborted) this.late = strand.late
          calledOff.abort(error)
          throw error
        }
      }
      return strand.late
    }
    const lines = Array.from({ length: Math.min(limit, items.length) }, line)
    // Those called off must be gone before the client turns elsewhere: they write to the same shelf.
    const ended = await Promise.allSettled(lines)
    calledOff.signal.throwIfAborted()
    this.late = Math.max(this.late, ...ended.map((it) => (it.status === 'fulfilled' ? it.value : 0)))
  }

  /** All of it at once. */
  async beside(...works: readonly ((strand: Strand) => Promise<void>)[]): Promise<void> {
    await this.all(works.length, works, (work, strand) => work(strand))
  }
}
