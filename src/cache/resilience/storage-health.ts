/**
 * Storage health, a circuit breaker for the disk: while it refuses writes, pulls stream through uncached.
 *
 * It logs one warning at the beginning and one line at the end; every refusal is counted.
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
    /** Counts a file that could not be opened because the process has too many: the disk is not to blame. */
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

  /** True while the disk must not even be tried: it refused a moment ago, or hangs. */
  get backingOff(): boolean {
    return this.hangsSince !== undefined || (this.#rests && this.#outage.quiet < REST_MS)
  }

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
    // A full disk is tried each time, for an eviction may have made room.
    this.#rests = !isDiskFull(error)
    this.skipped()
    this.#outage.failed(error, { what })
  }

  /** Counts content that was not even tried to be kept. */
  skipped(): void {
    this.#metrics.bypasses.inc({ reason: this.#reason })
  }

  writeSucceeded(): void {
    this.#outage.worked()
  }

  /** A partial file that cannot be removed costs space, and is part of the same outage. */
  cleanupFailed(error: unknown): void {
    this.#log[this.failing ? 'debug' : 'warn']({ err: error }, 'a partial file could not be cared for')
  }
}

const REASONS = new Set(['ENOSPC', 'EROFS', 'EDQUOT', 'EIO', 'EACCES', 'EPERM', 'ENOENT', 'ETIMEDOUT'])

/** A metric label from a closed set. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' && REASONS.has(code) ? code : 'other'
}
