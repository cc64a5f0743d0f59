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

export class StorageHealth {
  readonly #metrics: Metrics
  readonly #log: Logger
  readonly #now: () => number
  #restUntil = 0
  #failing = false

  constructor(options: { metrics: Metrics; log: Logger; now: () => number }) {
    this.#metrics = options.metrics
    this.#log = options.log
    this.#now = options.now
  }

  /** Do not even try: it refused a moment ago. */
  get resting(): boolean {
    return this.#restUntil > this.#now()
  }

  get failing(): boolean {
    return this.#failing
  }

  /** @param what constant phrase: what could not be kept */
  refused(what: string, error: unknown): void {
    this.#restUntil = this.#now() + REST_MS
    this.#metrics.bypasses.inc({ reason: reasonOf(error) })
    if (this.#failing) return
    this.#failing = true
    this.#log.warn({ err: error, what }, 'storage refuses writes: pulls are streamed through uncached')
  }

  worked(): void {
    if (!this.#failing) return
    this.#failing = false
    this.#restUntil = 0
    this.#log.info('storage takes writes again')
  }
}

const REASONS = new Set(['ENOSPC', 'EROFS', 'EDQUOT', 'EIO', 'EACCES', 'EPERM', 'EMFILE', 'ENOENT'])

/** A label from a closed set. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' && REASONS.has(code) ? code : 'other'
}
