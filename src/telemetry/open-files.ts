/**
 * Limit of open files and connections of this process (`ulimit -n`), and whether it has been met.
 *
 * One line in the log at most once a minute, and a counter.
 */
import type { Milliseconds } from '../base/units.ts'
import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Metrics } from './metrics.ts'

/** Between two lines that say the same. */
const LINE_EVERY: Milliseconds = 60_000
/** For so long after it was met the limit is taken to be met still. */
const LASTS: Milliseconds = 30_000

interface OpenFilesOptions {
  readonly metrics: Pick<Metrics, 'outOfFiles'>
  readonly log: Pick<Logger, 'warn'>
  /** Monotonic. */
  readonly now: () => Milliseconds
}

/**
 * - `connection`: one of a client, refused before the limit itself was met
 * - `upstream`: one to an upstream
 * - `storage`: a file that was to be kept
 * - `request`: what a client asked for could not be answered
 */
type OutOfFiles = 'connection' | 'upstream' | 'storage' | 'request'

export class OpenFiles {
  readonly #options: OpenFilesOptions
  #metAt = Number.NEGATIVE_INFINITY
  #saidAt = Number.NEGATIVE_INFINITY

  constructor(options: OpenFilesOptions) {
    this.#options = options
  }

  get exhausted(): boolean {
    return this.#options.now() - this.#metAt < LASTS
  }

  /** @param error where the system said so */
  met(what: OutOfFiles, error?: unknown): void {
    const { metrics, log, now } = this.#options
    metrics.outOfFiles.inc({ what })
    this.#metAt = now()
    if (this.#metAt - this.#saidAt < LINE_EVERY) return
    this.#saidAt = this.#metAt
    log.warn(
      { what, ...(error === undefined ? {} : { err: error }) },
      'the limit of open files is reached: raise it for this process (ulimit -n, LimitNOFILE)',
    )
  }
}

/** The soft limit of this process; undefined where it has none, or `/proc` does not say. */
export async function openFilesLimit(): Promise<number | undefined> {
  try {
    return parseOpenFilesLimit(await readFile('/proc/self/limits', 'utf8'))
  } catch {
    return undefined
  }
}

/** @param text as in `/proc/PID/limits` (proc_pid_limits(5)): `Max open files  SOFT  HARD  files` */
export function parseOpenFilesLimit(text: string): number | undefined {
  const soft = /^Max open files\s+(\d+)\s/m.exec(text)?.[1]
  return soft === undefined ? undefined : Number(soft)
}
