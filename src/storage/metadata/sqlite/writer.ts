/**
 * Queue of writes for the writer thread.
 *
 * A durable commit beside a running fill takes up to a quarter of a second, which must not block the event loop. A
 * stuck database fails its writes after a while instead of keeping them; the next write replaces a thread that died.
 */
import { Worker } from 'node:worker_threads'
import { StorageError } from '../../storage-error.ts'
import type { WriteQuery, WriterReply, WriterRequest } from './writer-worker.ts'

export interface WriterOptions {
  /** How long a write may wait for its commit. */
  readonly timeoutMs?: number
  /** More than this many waiting is a stuck database, not a busy one. */
  readonly maxQueued?: number
  readonly entry?: URL
  /** Called when the database does not answer in that time, with since when in Unix ms, and when it answers again. */
  readonly onStuck?: (since: number | undefined) => void
}

interface Pending {
  readonly worker: Worker
  readonly resolve: () => void
  readonly reject: (error: StorageError) => void
  readonly timer: NodeJS.Timeout
}

export class Writer {
  readonly #path: string
  readonly #timeoutMs: number
  readonly #maxQueued: number
  readonly #entry: URL
  readonly #onStuck: WriterOptions['onStuck']
  readonly #pending = new Map<number, Pending>()
  /** Writes that the thread has not answered, even if their callers have got BUSY. */
  #unanswered = 0
  #lastUnit = 0
  #stuck = false
  #worker: Worker | undefined
  #closing: Promise<void> | undefined

  constructor(path: string, options: WriterOptions = {}) {
    this.#path = path
    this.#timeoutMs = options.timeoutMs ?? 10_000
    this.#maxQueued = options.maxQueued ?? 10_000
    this.#onStuck = options.onStuck
    this.#entry = options.entry ?? new URL('./writer-worker.ts', import.meta.url)
  }

  /**
   * All of it or nothing, durable when it resolves.
   *
   * @throws StorageError FULL, WRITE_FAILED, BUSY (it may still happen) or CLOSED
   */
  write(queries: readonly WriteQuery[]): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#closing) throw new StorageError('CLOSED', 'the metadata database has been closed')
      if (this.#unanswered >= this.#maxQueued) throw busy()
      const unit = ++this.#lastUnit
      const worker = (this.#worker ??= this.#start())
      worker.postMessage({ type: 'write', unit, queries } satisfies WriterRequest)
      this.#unanswered++
      // The timer also keeps the process alive until the answer is there; the thread does not.
      const begun = Date.now()
      const timer = setTimeout(() => {
        this.#settle(unit, busy())
        this.#tellStuck(begun)
      }, this.#timeoutMs)
      this.#pending.set(unit, { worker, resolve, reject, timer })
    })
  }

  /**
   * Commits what is queued. Unless another process has the database open, its main file is complete then.
   *
   * @param last written after everything else; no caller is told whether it was
   */
  close(last: readonly WriteQuery[] = []): Promise<void> {
    this.#closing ??= (async () => {
      const worker = this.#worker ?? (last.length > 0 ? this.#start() : undefined)
      if (!worker) return
      const ended = new Promise((resolve) => worker.once('exit', resolve))
      worker.ref()
      worker.postMessage({ type: 'close', last } satisfies WriterRequest)
      const timer = setTimeout(() => void worker.terminate(), this.#timeoutMs)
      await ended
      clearTimeout(timer)
    })()
    return this.#closing
  }

  #start(): Worker {
    // The thread loads none of the process's preloads: a test runner's loaders take half a second.
    const worker = new Worker(this.#entry, { workerData: this.#path, execArgv: [] })
    worker.unref()
    worker.on('message', ({ unit, error }: WriterReply) => {
      this.#unanswered--
      this.#tellStuck(undefined)
      const failure = error && (error.full ? full(error.message) : failed(error.message))
      this.#settle(unit, failure)
    })
    worker.on('error', (error) => this.#lose(worker, error))
    worker.on('exit', () => this.#lose(worker, undefined))
    return worker
  }

  #tellStuck(since: number | undefined): void {
    const stuck = since !== undefined
    if (stuck === this.#stuck) return
    this.#stuck = stuck
    this.#onStuck?.(since)
  }

  #settle(unit: number, error: StorageError | undefined): void {
    const pending = this.#pending.get(unit)
    if (!pending) return
    this.#pending.delete(unit)
    clearTimeout(pending.timer)
    if (error) pending.reject(error)
    else pending.resolve()
  }

  #lose(worker: Worker, cause: unknown): void {
    if (this.#worker === worker) {
      this.#worker = undefined
      this.#unanswered = 0
      this.#tellStuck(undefined)
    }
    for (const [unit, pending] of this.#pending) {
      if (pending.worker === worker) this.#settle(unit, failed(cause ?? 'the writing thread has ended'))
    }
  }
}

function busy(): StorageError {
  return new StorageError('BUSY', 'the metadata database takes no writes at the moment')
}

function failed(cause: unknown): StorageError {
  return new StorageError('WRITE_FAILED', 'the metadata database did not take a write', cause)
}

function full(cause: unknown): StorageError {
  return new StorageError('FULL', 'the disk has no room for the metadata database', cause)
}
