/**
 * Fetches by Range what a reader waits for that seeks far ahead of the download, one request for each such reader.
 *
 * On an error no seek is served for a while; the sequential download will reach the range anyway.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Ingest } from '../../storage/ingest/ingest.ts'
import type { TransferPriority, TransferSlots } from '../../upstream/limits/transfer-slots.ts'
import { backoff } from '../../base/backoff.ts'
import { RangeRequest, type RangeRequests, type RequestedRange } from './range-requests.ts'
import { TransferSlot } from './transfer-slot.ts'

/** A reader farther than this beyond what is there, or coming, gets a request of its own. */
const FAR_AHEAD: Bytes = 8 * 1024 * 1024
const MAX_RUNS = 4

interface FarOptions {
  readonly slots: TransferSlots
  readonly priority: () => TransferPriority
  readonly owner: object
  readonly ingest: Ingest
  readonly runs: RangeRequests
  readonly now: () => Milliseconds
  /** One request, as far as it goes. */
  readonly fetch: (run: RangeRequest, signal: AbortSignal) => Promise<unknown>
  /** A request has ended, or waiting readers may ask again. */
  readonly onChange: () => void
  readonly log: Pick<Logger, 'debug'>
}

export class SeekFetcher {
  readonly #options: FarOptions
  #failures = 0
  #resting = false

  constructor(options: FarOptions) {
    this.#options = options
  }

  /** Makes sure that the first byte of the range is on its way, unless another request reaches it soon. Cheap. */
  want({ start, end }: RequestedRange, signal: AbortSignal): void {
    const { ingest, runs, now } = this.#options
    if (this.#resting || start < ingest.prefix + FAR_AHEAD || ingest.readableTo(start) > start) return
    if (runs.count('far') >= MAX_RUNS) return
    for (const run of runs.all) {
      if (start >= run.start && start < run.position + FAR_AHEAD) return
    }
    const run = new RangeRequest('far', { start, end }, now())
    runs.add(run)
    void this.#bring(run, signal)
  }

  /** Never rejects. */
  async #bring(run: RangeRequest, signal: AbortSignal): Promise<void> {
    const { runs, onChange, log } = this.#options
    let failed = false
    try {
      await this.#fetch(run, signal)
    } catch (error) {
      failed = !signal.aborted
      if (failed) log.debug({ err: error }, 'fetch of a far range failed')
    }
    runs.delete(run)
    if (run.position > run.start) this.#failures = 0
    // When several fail at once, the first sets the pause.
    if (failed && !this.#resting) void this.#rest(signal)
    onChange()
  }

  /** Never rejects. */
  async #rest(signal: AbortSignal): Promise<void> {
    this.#failures += 1
    this.#resting = true
    await sleep(backoff(this.#failures), undefined, { signal, ref: false }).catch(() => undefined)
    this.#resting = false
    if (!signal.aborted) this.#options.onChange()
  }

  async #fetch(run: RangeRequest, signal: AbortSignal): Promise<void> {
    const { slots, priority, owner, fetch } = this.#options
    using turn = await TransferSlot.take(slots, { priority, owner }, signal)
    try {
      await fetch(run, AbortSignal.any([signal, turn.preempted, run.over]))
    } catch (error) {
      if ((!turn.preempted.aborted && !run.over.aborted) || signal.aborted) throw error
    }
  }
}
