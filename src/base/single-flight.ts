/**
 * Single-flight: work that several callers ask for at once is done once, and all of them get its result.
 *
 * The work belongs to no caller: one that leaves only stops waiting. A flight may answer before it has settled (a
 * manifest is served while it is still being written down); callers join it until it settles.
 */
import { abandonable } from './condition.ts'

export interface Flight<Answer> {
  readonly answer: Answer
  /** A new flight starts only when this has ended. It must not reject. */
  readonly after?: Promise<void>
}

export class SingleFlight<Answer> {
  readonly #flights = new Map<string, Promise<Answer>>()
  readonly #settling = new Map<string, Promise<void>>()

  /** @throws what the work throws, or the signal's reason: then the work goes on for the others */
  async join(
    key: string,
    signal: AbortSignal,
    work: () => Promise<Flight<Answer>>,
  ): Promise<{ answer: Answer; joined: boolean }> {
    const flying = this.#flights.get(key)
    const flight = flying ?? this.#start(key, work)
    return { answer: await abandonable(flight, signal), joined: flying !== undefined }
  }

  #start(key: string, work: () => Promise<Flight<Answer>>): Promise<Answer> {
    const started = work()
    const flight = started.then(({ answer }) => answer)
    this.#flights.set(key, flight)
    const forget = (): void => {
      this.#flights.delete(key)
      this.#settling.delete(key)
    }
    const settled = started.then(({ after }) => after).then(forget, forget)
    this.#settling.set(key, settled)
    return flight
  }

  /** Resolves when no flight for that key is left to settle. */
  async settled(key: string): Promise<void> {
    await this.#settling.get(key)
  }

  /** Resolves when nothing is in flight. */
  async idle(): Promise<void> {
    while (this.#settling.size > 0) await Promise.all(this.#settling.values())
  }
}
