/**
 * A registry to fetch from, as a process of its own: as fast as the loopback, or as slow as it is told to be, for
 * each connection and in all. Bodies honour `Range`. It counts what it sends.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'

export interface SourceSpeed {
  /** Bytes per second of one response; undefined: no limit. */
  readonly perConnection?: number | undefined
  readonly inAll?: number | undefined
}

export interface SourceImage {
  readonly digest: string
  readonly layers: readonly { readonly digest: string; readonly size: number }[]
}

/** What is said to the process, and what it answers. */
export type SourceOrder =
  | {
      readonly order: 'image'
      readonly name: string
      readonly tag: string
      readonly layers: readonly number[]
      readonly seed: string
    }
  | { readonly order: 'blob'; readonly name: string; readonly size: number; readonly seed: string }
  | { readonly order: 'forget' }
  | { readonly order: 'speed'; readonly speed: SourceSpeed }
  | { readonly order: 'sent' }

export class ColdSource implements AsyncDisposable {
  readonly url: string
  readonly #process: ChildProcess

  private constructor(process: ChildProcess, url: string) {
    this.#process = process
    this.url = url
  }

  static async start(): Promise<ColdSource> {
    const child = fork(new URL('cold-source-process.ts', import.meta.url))
    const [{ url }] = (await once(child, 'message')) as [{ url: string }]
    return new ColdSource(child, url)
  }

  /** Layers of those sizes, in bytes; a seed makes them new. */
  image(name: string, tag: string, layers: readonly number[], seed: string): Promise<SourceImage> {
    return this.#say({ order: 'image', name, tag, layers, seed })
  }

  async blob(name: string, size: number, seed: string): Promise<string> {
    return (await this.#say<{ digest: string }>({ order: 'blob', name, size, seed })).digest
  }

  /** All blobs, so that memory does not fill with them. */
  async forget(): Promise<void> {
    await this.#say({ order: 'forget' })
  }

  async speed(speed: SourceSpeed): Promise<void> {
    await this.#say({ order: 'speed', speed })
  }

  /** Body bytes of blobs since it was last asked. */
  async sent(): Promise<number> {
    return (await this.#say<{ bytes: number }>({ order: 'sent' })).bytes
  }

  async #say<T>(order: SourceOrder): Promise<T> {
    this.#process.send(order)
    const [answer] = (await once(this.#process, 'message')) as [T]
    return answer
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#process, 'exit')
    this.#process.kill('SIGTERM')
    await ended
  }
}
