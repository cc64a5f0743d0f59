/**
 * Scrub: reads every blob and compares it with its digest once per interval, so that no pull is the first to find a
 * rotten disk.
 *
 * The blob whose check is longest ago comes first; the times of checks are in the index, so a restart costs nothing.
 * The scrub begins when half of the interval is over, is fast enough to be through well before the other half is, and
 * yields to all other work as long as there is time.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import type { AuditIndex, ScrubIndex } from '../metadata/audit-index.ts'
import type { EpochMs, MetadataStore } from '../metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { Examiner } from './examiner.ts'

/** Shares of the interval: after the first a blob is due, after the second it no longer yields to other work. */
const DUE = 0.5
const URGENT = 0.75
/** The speed is chosen so that all of it takes this share of the interval. */
const SHARE = 0.25

const MIB: Bytes = 1024 * 1024
const MOST_PER_SECOND: Bytes = 64 * MIB
const LEAST_PER_SECOND: Bytes = 4 * MIB
/** Opening a file costs as much as reading so many bytes. */
const LEAST_COST: Bytes = 64 * 1024

const PAGE = 100
const SECOND: Milliseconds = 1000
/** The longest pause: a reload may have changed the interval. */
const LONGEST_REST = 600 * SECOND
/** Checks that are not in the index yet are repeated after a crash. */
const WRITE_EVERY = 60 * SECOND
/** A clock that was set back by so much was not wrong before. */
const CLOCK_MAY_STEP = 3600 * SECOND
const TOTALS_EVERY = 6 * 3600 * SECOND

interface ScrubOptions {
  readonly metadata: Pick<MetadataStore, 'transaction'> & {
    readonly audit: Pick<AuditIndex, 'totals'>
    readonly scrub: Pick<ScrubIndex, 'due' | 'oldestCheck'>
  }
  readonly examiner: Pick<Examiner, 'examine'>
  /** 0: never. */
  readonly intervalMs: () => Milliseconds
  /** Whether a client is being served, or a download runs. */
  readonly busy: () => boolean
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => EpochMs
  /** @throws the signal's reason when it aborts before that */
  readonly rest: (ms: Milliseconds, signal: AbortSignal) => Promise<void>
}

interface Round {
  readonly intervalMs: Milliseconds
  readonly bytesPerSecond: number
  readonly signal: AbortSignal
}

export class Scrub {
  readonly #options: ScrubOptions
  /** Blobs that were found right, and are not recorded yet. */
  #checked = new Set<Digest>()
  #writtenAt: EpochMs
  #totals: { readonly bytes: Bytes; readonly blobs: number; readonly at: EpochMs } | undefined

  constructor(options: ScrubOptions) {
    this.#options = options
    this.#writtenAt = options.now()
  }

  /** Runs until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { rest, intervalMs, log } = this.#options
    try {
      // At a start other work comes first.
      await rest(restOf(intervalMs()), signal)
      for (;;) {
        const pause = await this.turn(signal).catch((err: unknown) => {
          signal.throwIfAborted()
          log.error({ err }, 'the scrub rests: something is wrong with the index or the disk')
          return LONGEST_REST
        })
        await rest(pause, signal)
      }
    } finally {
      await this.#write()
    }
  }

  /** Checks some of the blobs that are due. @returns how long there is nothing to do */
  async turn(signal: AbortSignal): Promise<Milliseconds> {
    const { metadata, now } = this.#options
    const intervalMs = this.#options.intervalMs()
    if (intervalMs === 0) return LONGEST_REST
    const time = { before: now() - intervalMs * DUE, after: now() + CLOCK_MAY_STEP }
    const page = await metadata.scrub.due(time, PAGE)
    const due = page.filter(({ digest }) => !this.#checked.has(digest))
    if (due.length === 0) {
      if (!(await this.#write())) return LONGEST_REST
      return page.length > 0 ? 0 : await this.#untilDue(intervalMs)
    }
    const round = { intervalMs, bytesPerSecond: await this.#speed(intervalMs), signal }
    for (const { digest, checkedAt } of due) {
      await this.#check(digest, checkedAt, round)
      if (now() - this.#writtenAt >= WRITE_EVERY) await this.#write()
    }
    return 0
  }

  async #check(digest: Digest, checkedAt: EpochMs, round: Round): Promise<void> {
    const { examiner, metrics, now } = this.#options
    await this.#giveWay(checkedAt, round)
    let began = now()
    let bytes = 0
    const pace = async (count: Bytes, cost: Bytes): Promise<void> => {
      const due = (cost / round.bytesPerSecond) * SECOND
      bytes += count
      metrics.scrubbedBytes.inc(count)
      await this.#options.rest(Math.max(0, due - (now() - began)), round.signal)
      began = now()
    }
    await examiner.examine(
      digest,
      async (count) => {
        await pace(count, count)
        await this.#giveWay(checkedAt, round)
      },
      round.signal,
    )
    if (bytes < LEAST_COST) await pace(0, LEAST_COST - bytes)
    this.#checked.add(digest)
  }

  async #giveWay(checkedAt: EpochMs, { intervalMs, signal }: Round): Promise<void> {
    const { busy, now, rest } = this.#options
    while (busy() && Math.abs(now() - checkedAt) < intervalMs * URGENT)
      await rest(Math.min(SECOND, intervalMs / 20), signal)
  }

  async #speed(intervalMs: Milliseconds): Promise<number> {
    const { metadata, now } = this.#options
    if (this.#totals === undefined || now() - this.#totals.at > Math.min(TOTALS_EVERY, intervalMs)) {
      this.#totals = { ...(await metadata.audit.totals()), at: now() }
    }
    const { bytes, blobs } = this.#totals
    const wanted = ((bytes + blobs * LEAST_COST) / (intervalMs * SHARE)) * SECOND
    return Math.min(Math.max(wanted, LEAST_PER_SECOND), MOST_PER_SECOND)
  }

  async #untilDue(intervalMs: Milliseconds): Promise<Milliseconds> {
    const { metadata, now } = this.#options
    const oldest = await metadata.scrub.oldestCheck()
    // A new blob is due half an interval from now at the earliest.
    const left = (oldest ?? now()) + intervalMs * DUE - now()
    return Math.min(Math.max(left, restOf(intervalMs)), LONGEST_REST)
  }

  /** @returns false when the index takes no write: the checks are kept for the next one */
  async #write(): Promise<boolean> {
    const { metadata, log, now } = this.#options
    const digests = [...this.#checked]
    this.#writtenAt = now()
    if (digests.length === 0) return true
    try {
      await metadata.transaction((tx) => tx.markChecked(digests, now()))
      this.#checked = new Set()
      return true
    } catch (err) {
      log.debug({ err }, 'what was checked was not written down')
      return false
    }
  }
}

/** The shortest pause that is worth it. */
function restOf(intervalMs: Milliseconds): Milliseconds {
  return Math.min(60 * SECOND, intervalMs / 20)
}
