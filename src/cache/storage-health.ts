/**
 * Whether the disk takes what we want to keep. When it does not, pulls stream through: the cache may never
 * make a pull fail.
 *
 * One warning when it begins, one line when it is over; every refusal is counted.
 */
import type { Logger } from 'pino'
import type { Metrics } from '../telemetry/metrics.ts'

/** After a refusal new fills do not try the disk for this long. */
const REST_MS = 5_000
/** So long nothing was refused when it is said that all is well: a disk that is nearly full takes small files. */
const QUIET_MS = 30_000

export class StorageHealth {
  readonly #metrics: Metrics
  readonly #log: Logger
  readonly #now: () => number
  #refusedAt = Number.NEGATIVE_INFINITY
  #reason = 'other'
  #failing = false

  constructor(options: { metrics: Metrics; log: Logger; now: () => number }) {
    this.#metrics = options.metrics
    this.#log = options.log
    this.#now = options.now
  }

  /** Do not even try: it refused a moment ago. */
  get resting(): boolean {
    return this.#since() < REST_MS
  }

  get failing(): boolean {
    return this.#failing
  }

  /** @param what constant phrase: what could not be kept */
  refused(what: string, error: unknown): void {
    this.#refusedAt = this.#now()
    this.#reason = reasonOf(error)
    this.spared()
    if (this.#failing) return
    this.#failing = true
    this.#log.warn({ err: error, what }, 'storage refuses writes: pulls are streamed through uncached')
  }

  /** Something was not even tried. */
  spared(): void {
    this.#metrics.bypasses.inc({ reason: this.#reason })
  }

  worked(): void {
    if (!this.#failing || this.#since() < QUIET_MS) return
    this.#failing = false
    this.#log.info('storage takes writes again')
  }

  /** What cannot be cleared away costs space until the next start, and is part of the same trouble. */
  neglected(error: unknown): void {
    this.#log[this.#failing ? 'debug' : 'warn']({ err: error }, 'a partial file could not be cared for')
  }

  #since(): number {
    // A clock that was set back must not make it rest for ever.
    return Math.abs(this.#now() - this.#refusedAt)
  }
}

const REASONS = new Set(['ENOSPC', 'EROFS', 'EDQUOT', 'EIO', 'EACCES', 'EPERM', 'EMFILE', 'ENOENT'])

/** A label from a closed set. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' && REASONS.has(code) ? code : 'other'
}
