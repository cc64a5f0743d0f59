/**
 * The connections of one emulated client: requests with its exact heads, and a record of what came from where.
 *
 * Nothing is retried, redirected or decoded here: what a client does about an answer is its own business. A
 * request that nothing moves any more is what most clients wait for for ever: the wire calls it hung.
 */
import { Agent, request, type ClientRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'

/** The mirror under test, or the registry that it stands for. */
export type Endpoint = 'mirror' | 'real'

/** In the order in which they are sent; a name may come several times. */
export type Head = readonly (readonly [name: string, value: string])[]

/**
 * - `eof`: closed before a head, `unexpected eof`: closed in the middle of a body; clients tell both from `reset`
 * - `late`: the client's own time-out
 */
export type Breakage = 'refused' | 'eof' | 'unexpected eof' | 'reset' | 'late'

/** One request as it went. */
export interface Exchange {
  readonly endpoint: Endpoint
  readonly method: string
  /** With the query. */
  readonly path: string
  readonly head: Head
  /** 0: no answer came. */
  status: number
  headers: IncomingHttpHeaders
  /** Of the body. */
  bytes: number
  /** `left`: the client closed it before its end. */
  ended: 'running' | 'whole' | 'left' | 'hung' | Breakage
  tookMs: number
}

/** Why a pull may fail; everything else that is thrown is a mistake of the emulator. */
export class PullError extends Error {
  override readonly name: string = 'PullError'
}

export class ConnectionError extends PullError {
  override readonly name = 'ConnectionError'
  readonly breakage: Breakage

  constructor(exchange: Exchange, breakage: Breakage) {
    super(`${describe(exchange)}: ${breakage}`)
    this.breakage = breakage
  }
}

export class HungError extends Error {
  override readonly name = 'HungError'
}

export function describe({ endpoint, method, path }: Exchange): string {
  return `${endpoint} ${method} ${path}`
}

export interface WireOptions {
  /** URLs. */
  readonly endpoints: Readonly<Record<Endpoint, string>>
  readonly keepAlive: boolean
  /** A request that was silent for so long hangs. */
  readonly hangMs: number
}

export class Wire {
  readonly exchanges: Exchange[] = []
  /** Rejects when a request hangs. */
  readonly hung: Promise<never>
  readonly #options: WireOptions
  readonly #agent: Agent
  readonly #open = new Set<ClientRequest>()
  #hang: (error: HungError) => void = () => undefined

  constructor(options: WireOptions) {
    this.#options = options
    this.#agent = new Agent({ keepAlive: options.keepAlive })
    this.hung = new Promise<never>((_resolve, reject) => {
      this.#hang = reject
    })
    this.hung.catch(() => undefined)
  }

  get hangMs(): number {
    return this.#options.hangMs
  }

  /**
   * Resolves with the head of the answer, whatever its status.
   *
   * @param options.headersMs the client's own time-out; without one it waits until it hangs
   * @throws ConnectionError
   */
  async ask(
    endpoint: Endpoint,
    method: 'GET' | 'HEAD',
    path: string,
    head: Head,
    options: { signal: AbortSignal; headersMs?: number | undefined },
  ): Promise<Answer> {
    options.signal.throwIfAborted()
    const url = new URL(path, this.#options.endpoints[endpoint])
    const exchange: Exchange = {
      ...{ endpoint, method, path, head },
      ...{ status: 0, headers: {}, bytes: 0, ended: 'running', tookMs: 0 },
    }
    this.exchanges.push(exchange)
    return await new Promise((resolve, reject) => {
      const headers = ['Host', url.host, ...head.flat()]
      const outgoing = request(url, { method, headers, agent: this.#agent, signal: options.signal })
      const flight = new Flight(exchange, outgoing)
      this.#open.add(outgoing)
      flight.onEnd = () => this.#open.delete(outgoing)
      const hang = (): void => {
        exchange.ended = 'hung'
        this.#hang(new HungError(`${describe(exchange)} has been silent for ${String(this.hangMs)} ms`))
      }
      if (options.headersMs === undefined) flight.watch(this.hangMs, hang)
      else flight.watch(options.headersMs, () => flight.breakOff('late'))
      outgoing.once('error', (error: NodeJS.ErrnoException) => {
        const before = flight.sawEnd ? 'eof' : 'reset'
        flight.end(error.code === 'ECONNREFUSED' ? 'refused' : before)
        reject(options.signal.aborted ? (options.signal.reason as Error) : flight.error())
      })
      outgoing.once('response', (incoming) => {
        exchange.status = incoming.statusCode ?? 0
        exchange.headers = incoming.headers
        flight.watch(this.hangMs, hang)
        resolve(new Answer(flight, incoming))
      })
      outgoing.end()
    })
  }

  close(): void {
    for (const outgoing of this.#open) outgoing.destroy()
    this.#agent.destroy()
  }
}

/** What is known of a request while it is on its way. */
class Flight {
  readonly exchange: Exchange
  sawEnd = false
  onEnd: () => void = () => undefined
  readonly #outgoing: ClientRequest
  readonly #startedAt = performance.now()
  #timer: NodeJS.Timeout | undefined
  #broken: Breakage | undefined

  constructor(exchange: Exchange, outgoing: ClientRequest) {
    this.exchange = exchange
    this.#outgoing = outgoing
    // Node says "aborted" for both; Go tells a closed connection from a reset one, and its clients act on that.
    const onEnd = (): void => {
      this.sawEnd = true
    }
    outgoing.once('socket', (socket: Socket) => {
      socket.once('end', onEnd)
      outgoing.once('close', () => socket.off('end', onEnd))
    })
  }

  /** Starts anew with every sign of life. */
  watch(ms: number, expired: () => void): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(expired, ms)
  }

  alive(): void {
    this.#timer?.refresh()
  }

  breakOff(breakage: Breakage): void {
    this.#broken = breakage
    this.#outgoing.destroy(new Error(breakage))
  }

  end(as: Exchange['ended']): void {
    clearTimeout(this.#timer)
    this.onEnd()
    if (this.exchange.ended !== 'running') return
    this.exchange.ended = this.#broken ?? as
    this.exchange.tookMs = performance.now() - this.#startedAt
  }

  error(): ConnectionError {
    const { ended } = this.exchange
    return new ConnectionError(
      this.exchange,
      ended === 'running' || ended === 'whole' || ended === 'left' || ended === 'hung' ? 'reset' : ended,
    )
  }
}

/** An answer whose body has not been read yet. It must be read, discarded or left. */
export class Answer {
  readonly exchange: Exchange
  readonly #flight: Flight
  readonly #incoming: IncomingMessage

  constructor(flight: Flight, incoming: IncomingMessage) {
    this.exchange = flight.exchange
    this.#flight = flight
    this.#incoming = incoming
    incoming.on('error', () => undefined)
  }

  get status(): number {
    return this.exchange.status
  }

  get ok(): boolean {
    return this.status >= 200 && this.status < 300
  }

  get endpoint(): Endpoint {
    return this.exchange.endpoint
  }

  header(name: string): string | undefined {
    const value = this.exchange.headers[name]
    return Array.isArray(value) ? value.join(', ') : value
  }

  /**
   * The body as it comes. Whoever stops reading before its end closes the connection, as Go does.
   *
   * @throws ConnectionError when it breaks off
   */
  async *chunks(): AsyncGenerator<Buffer, void, undefined> {
    let whole = false
    try {
      for await (const chunk of this.#incoming as AsyncIterable<Buffer>) {
        this.#flight.alive()
        this.exchange.bytes += chunk.length
        yield chunk
      }
      whole = this.#incoming.complete
      if (!whole) throw new Error('cut')
      this.#flight.end('whole')
    } catch {
      this.#flight.end(this.#flight.sawEnd ? 'unexpected eof' : 'reset')
      throw this.#flight.error()
    } finally {
      if (!whole) {
        this.#flight.end('left')
        this.#incoming.destroy()
      }
    }
  }

  /** @throws ConnectionError */
  async bytes(): Promise<Buffer> {
    const chunks: Buffer[] = []
    for await (const chunk of this.chunks()) chunks.push(chunk)
    return Buffer.concat(chunks)
  }

  /** Reads what is left of no interest; how it ends does not matter. */
  async discard(): Promise<void> {
    await this.bytes().catch(() => undefined)
  }
}
