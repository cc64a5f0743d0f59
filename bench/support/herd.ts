/**
 * Many clients at once, as a process of its own that costs less than the server: bare sockets that read into one
 * buffer and count. Each pulls like dockerd: the manifest, then config and layers, three at a time.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'

export interface HerdOrder {
  readonly url: string
  readonly clients: number
  /** Requests of one client at once. */
  readonly lanes: number
  readonly manifest: string
  /** What the manifest names. */
  readonly blobs: readonly { readonly path: string; readonly size: number; readonly digest?: string }[]
}

/** Of one client, in milliseconds since all began. */
export interface Pulled {
  /** Until the first byte of the first blob. */
  readonly firstByteMs: number
  readonly doneMs: number
  /** Of blobs. */
  readonly bytes: number
}

export class Herd implements AsyncDisposable {
  readonly #process: ChildProcess = fork(new URL('herd-process.ts', import.meta.url))

  /** @throws when an answer is not a whole 200, or the bytes of the first client are not their digests' */
  async pull(order: HerdOrder): Promise<Pulled[]> {
    this.#process.send(order)
    const [answer] = (await once(this.#process, 'message')) as [{ pulled: Pulled[] } | { error: string }]
    if ('error' in answer) throw new Error(answer.error)
    return answer.pulled
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#process, 'exit')
    this.#process.kill('SIGTERM')
    await ended
  }
}
