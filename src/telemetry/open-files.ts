/**
 * Watch of the limit of open files and connections of this process (`ulimit -n`).
 *
 * It counts each time the limit is met, and logs at most one line a minute.
 */
import type { Milliseconds } from '../base/units.ts'
import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Metrics } from './metrics.ts'

const LINE_EVERY: Milliseconds = 60_000
/** How long the limit counts as met after it was met once. */
const LASTS: Milliseconds = 30_000

interface OpenFilesOptions {
  readonly metrics: Pick<Metrics, 'outOfFiles'>
  readonly log: Pick<Logger, 'warn'>
  /** Monotonic. */
  readonly now: () => Milliseconds
}

/**
 * What was refused for want of a file descriptor:
 * - `connection`: a client's, refused before the limit itself was met
 * - `upstream`: a connection to an upstream
 * - `storage`: a file that was to be stored
 * - `request`: a client's request that could not be answered
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

  /** @param error the system's, if there is one */
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
