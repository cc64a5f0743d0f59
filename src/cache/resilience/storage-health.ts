/**
 * Whether the disk takes what we want to keep. When it does not, pulls stream through: the cache may never
 * make a pull fail.
 *
 * One warning when it begins, one line when it is over; every refusal is counted.
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Logger } from 'pino'
import { isOutOfFiles } from '../../base/open-files.ts'
import { isDiskFull } from '../../storage/storage-error.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { OpenFiles } from '../../telemetry/open-files.ts'
import { OutageLog } from './outage-log.ts'

/** After a refusal new fills do not try the disk for this long. */
const REST_MS: Milliseconds = 5_000

export class StorageHealth {
  readonly #metrics: Metrics
  readonly #log: Logger
  readonly #outage: OutageLog
  readonly #hangsSince: () => Milliseconds | undefined
  readonly #openFiles: Pick<OpenFiles, 'met'> | undefined
  #reason = 'other'
  #rests = true

  constructor(options: {
    metrics: Metrics
    /** Told when a file could not be opened because there are too many: the disk is not to blame. */
    openFiles?: Pick<OpenFiles, 'met'>
    /** Since when the disk does not answer; Unix time in ms. */
    hangsSince?: () => Milliseconds | undefined
    log: Logger
    now: () => Milliseconds
  }) {
    this.#metrics = options.metrics
    this.#log = options.log
    this.#openFiles = options.openFiles
    this.#hangsSince = options.hangsSince ?? (() => undefined)
    this.#outage = new OutageLog({
      ...options,
      begins: 'storage refuses writes: pulls are streamed through uncached',
      ends: 'storage takes writes again',
    })
  }

  /** Do not even try: it refused a moment ago. */
  get backingOff(): boolean {
    return this.hangsSince !== undefined || (this.#rests && this.#outage.quiet < REST_MS)
  }

  /** The disk does not answer, since then: Unix time in ms. */
  get hangsSince(): Milliseconds | undefined {
    return this.#hangsSince()
  }

  get failing(): boolean {
    return this.#outage.lasting
  }

  /** @param what constant phrase: what could not be kept */
  writeFailed(what: string, error: unknown): void {
    if (isOutOfFiles(error)) {
      this.#metrics.bypasses.inc({ reason: 'EMFILE' })
      this.#openFiles?.met('storage', error)
      return
    }
    this.#reason = reasonOf(error)
    // Of a full disk it is asked each time whether room can be made.
    this.#rests = !isDiskFull(error)
    this.skipped()
    this.#outage.failed(error, { what })
  }

  /** Something was not even tried. */
  skipped(): void {
    this.#metrics.bypasses.inc({ reason: this.#reason })
  }

  writeSucceeded(): void {
    this.#outage.worked()
  }

  /** What cannot be cleared away costs space until it can be, and is part of the same trouble. */
  cleanupFailed(error: unknown): void {
    this.#log[this.failing ? 'debug' : 'warn']({ err: error }, 'a partial file could not be cared for')
  }
}

const REASONS = new Set(['ENOSPC', 'EROFS', 'EDQUOT', 'EIO', 'EACCES', 'EPERM', 'ENOENT', 'ETIMEDOUT'])

/** A label from a closed set. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' && REASONS.has(code) ? code : 'other'
}
