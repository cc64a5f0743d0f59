/**
 * A receiver of notifications: a real server that does what a test tells it to.
 */
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

export interface Told {
  readonly id: string
  readonly timestamp: string
  readonly action: string
  readonly target: Record<string, unknown> & { repository: string; digest?: string; tag?: string }
  readonly request: Record<string, unknown>
  readonly actor: Record<string, unknown>
  readonly source: Record<string, unknown>
}

export interface Post {
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
  readonly events: readonly Told[]
}

/** What it does with a post; undefined: takes it. */
export type Behaviour = (response: ServerResponse, post: Post) => void

export class Listener implements AsyncDisposable {
  readonly posts: Post[] = []
  /** Events of posts that were answered 200, in order. */
  readonly taken: Told[] = []
  behave: Behaviour | undefined
  #url = ''
  #server = this.#create()
  readonly #waiting = new Set<() => void>()

  static async start(t: Test): Promise<Listener> {
    const listener = new Listener()
    t.teardown(() => listener.stop())
    await listener.listen(0)
    return listener
  }

  get url(): string {
    return this.#url
  }

  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
    this.#url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** Nobody is there any more, and whoever was being answered knows it. */
  async stop(): Promise<void> {
    if (!this.#server.listening) return
    this.#server.closeAllConnections()
    const closed = once(this.#server, 'close')
    this.#server.close()
    await closed
  }

  /** At the same address, after a `stop`. */
  async comeBack(): Promise<void> {
    this.#server = this.#create()
    await this.listen(Number(new URL(this.#url).port))
  }

  /** Resolves as soon as it holds; looked at after every post. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      const { promise, resolve } = Promise.withResolvers<undefined>()
      const wake = (): void => resolve(undefined)
      this.#waiting.add(wake)
      await promise
      this.#waiting.delete(wake)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  #create() {
    return createServer((request, response) => {
      const chunks: Buffer[] = []
      request.on('error', () => undefined)
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        const body = Buffer.concat(chunks).toString()
        const { events } = JSON.parse(body) as { events: Told[] }
        const post = { url: request.url ?? '', headers: request.headers, body, events }
        this.posts.push(post)
        if (this.behave === undefined) {
          this.taken.push(...events)
          response.end()
        } else this.behave(response, post)
        for (const wake of this.#waiting) wake()
      })
    })
  }
}
