/**
 * Pool of worker threads that hash files behind their writers.
 *
 * sha256 runs at some 0.3 GB/s per core where the processor has no instructions for it: on the event loop that would
 * be every other request's latency. A job retains the descriptor of one open file until the thread has done with it.
 * A thread that dies fails its jobs, and the next job starts a new thread.
 */
import type { Bytes } from '../../base/units.ts'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { DigestAlgorithm } from '../../oci/digest.ts'
import type { HasherReply, HasherRequest } from './hasher-worker.ts'
import type { OpenFile } from '../files/open-file.ts'

/** A thread is told of new bytes no more often than this, which saves messages; `finish` tells the rest. */
const ADVANCE_STEP = 1024 * 1024

export class Hashers {
  readonly #threads: (Thread | undefined)[]
  readonly #entry: URL
  #closed = false

  constructor(options: { threads?: number; entry?: URL } = {}) {
    this.#threads = Array.from({ length: options.threads ?? Math.min(availableParallelism(), 4) })
    this.#entry = options.entry ?? new URL('./hasher-worker.ts', import.meta.url)
  }

  /** The job hashes `file` from 0 on, as far as {@link HashJob.advance} says. */
  start(algorithm: DigestAlgorithm, file: OpenFile): HashJob {
    if (this.#closed) throw new Error('hashing has been shut down')
    return this.#leastLoaded().start(algorithm, file)
  }

  /** Jobs that still run fail. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(this.#threads.map(async (thread) => thread?.terminate()))
  }

  #leastLoaded(): Thread {
    let best = 0
    for (const [i, thread] of this.#threads.entries()) {
      if ((thread?.load ?? 0) < (this.#threads[best]?.load ?? 0)) best = i
    }
    const gone = (thread: Thread): void => {
      if (this.#threads[best] === thread) this.#threads[best] = undefined
    }
    return (this.#threads[best] ??= new Thread(this.#entry, gone))
  }
}

class Thread {
  readonly #worker: Worker
  readonly #jobs = new Map<number, HashJob>()
  readonly #gone: (thread: Thread) => void
  #lastJob = 0
  #error: Error | undefined

  constructor(entry: URL, gone: (thread: Thread) => void) {
    this.#gone = gone
    // The thread loads none of the process's preloads: a test runner's loaders take half a second.
    this.#worker = new Worker(entry, { execArgv: [] })
    this.#worker.on('message', (reply: HasherReply) => this.#take(reply))
    this.#worker.on('error', (error) => this.#die(error instanceof Error ? error : new Error(String(error))))
    this.#worker.on('exit', () => this.#die(new Error('the hashing thread has ended')))
    this.#worker.unref()
  }

  get load(): number {
    return this.#jobs.size
  }

  start(algorithm: DigestAlgorithm, file: OpenFile): HashJob {
    const id = ++this.#lastJob
    const job = new HashJob(file.retain(), (message) => {
      this.#worker.postMessage({ ...message, job: id } satisfies HasherRequest)
      this.#refer()
    })
    this.#jobs.set(id, job)
    this.#worker.postMessage({
      type: 'open',
      job: id,
      algorithm,
      file: file.descriptor,
    } satisfies HasherRequest)
    return job
  }

  async terminate(): Promise<void> {
    await this.#worker.terminate()
  }

  #take(reply: HasherReply): void {
    const job = this.#jobs.get(reply.job)
    if (reply.type !== 'progress') this.#jobs.delete(reply.job)
    job?.take(reply)
    this.#refer()
  }

  #die(error: Error): void {
    // `error` comes before `exit`: the first one says why.
    this.#error ??= error
    this.#gone(this)
    for (const [id, job] of this.#jobs) {
      this.#jobs.delete(id)
      job.take({ type: 'failed', job: id, message: this.#error.message })
    }
  }

  /** A thread keeps the process alive only while a caller waits for one of its jobs. */
  #refer(): void {
    if ([...this.#jobs.values()].some((job) => job.awaited)) this.#worker.ref()
    else this.#worker.unref()
  }
}

type Told<T> = T extends unknown ? Omit<T, 'job'> : never

/** The caller must finish or cancel the job, or the descriptor stays open. */
export class HashJob {
  #told: Bytes = 0
  #hashed: Bytes = 0
  #state: 'following' | 'finishing' | 'cancelled' | 'done' = 'following'
  #error: Error | undefined
  readonly #file: Disposable
  readonly #tell: (message: Told<HasherRequest>) => void
  readonly #digest = Promise.withResolvers<string>()
  readonly #waiting = new Set<{ readonly position: Bytes; readonly settle: (error?: Error) => void }>()

  constructor(file: Disposable, tell: (message: Told<HasherRequest>) => void) {
    this.#file = file
    this.#tell = tell
    // The caller of `finish` gets the failure; a cancelled job has no such caller, and must not end the process.
    this.#digest.promise.catch(() => undefined)
  }

  get hashed(): Bytes {
    return this.#hashed
  }

  get awaited(): boolean {
    return this.#waiting.size > 0 || this.#state === 'finishing' || this.#state === 'cancelled'
  }

  /** The bytes before `upTo` have been written. */
  advance(upTo: Bytes): void {
    if (this.#state !== 'following' || upTo - this.#told < ADVANCE_STEP) return
    this.#told = upTo
    this.#tell({ type: 'advance', upTo })
  }

  /** Waits until the bytes before `position` are hashed. @throws when they never will be */
  async reached(position: Bytes): Promise<void> {
    if (this.#error) throw this.#error
    if (this.#hashed >= position) return
    await new Promise<void>((resolve, reject) => {
      const settle = (error?: Error): void => {
        if (error) reject(error)
        else resolve()
      }
      this.#waiting.add({ position, settle })
      if (this.#state === 'following') {
        this.#told = Math.max(this.#told, position)
        this.#tell({ type: 'advance', upTo: this.#told })
      }
    })
  }

  /** @returns the hash of [0, size) in hex */
  finish(size: Bytes): Promise<string> {
    if (this.#state === 'following') {
      this.#state = 'finishing'
      this.#tell({ type: 'finish', size })
    }
    return this.#digest.promise
  }

  /** Rejects the callers that wait. A no-op once the job is over. */
  cancel(): void {
    if (this.#state === 'done' || this.#state === 'cancelled') return
    this.#state = 'cancelled'
    this.#fail(new Error('hashing was given up'))
    this.#tell({ type: 'cancel' })
  }

  /** Only the thread calls it. */
  take(reply: HasherReply): void {
    if (reply.type === 'progress') {
      this.#hashed = reply.hashed
      this.#settle((position) => position <= reply.hashed)
      return
    }
    this.#state = 'done'
    if (reply.type === 'digest') this.#digest.resolve(reply.hex)
    else
      this.#fail(
        new Error(reply.type === 'failed' ? `hashing failed: ${reply.message}` : 'hashing was given up'),
      )
    this.#file[Symbol.dispose]()
  }

  #fail(error: Error): void {
    this.#error ??= error
    this.#digest.reject(this.#error)
    this.#settle(() => true, this.#error)
  }

  #settle(which: (position: Bytes) => boolean, error?: Error): void {
    for (const waiting of this.#waiting) {
      if (!which(waiting.position)) continue
      this.#waiting.delete(waiting)
      waiting.settle(error)
    }
  }
}
