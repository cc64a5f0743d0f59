/**
 * What the simulated registry saw, in the order in which the requests came.
 */
import type { IncomingHttpHeaders } from 'node:http'

export type Listener = 'registry' | 'auth' | 'cdn'
/** `blob` is asked of the registry, `cdn` is where the bytes come from when it redirects, `hop` lies between. */
export type Kind =
  'ping' | 'token' | 'manifest' | 'blob' | 'hop' | 'cdn' | 'tags' | 'referrers' | 'catalog' | 'other'

export interface LogEntry {
  readonly listener: Listener
  readonly kind: Kind
  readonly method: string
  readonly url: string
  readonly repo: string | undefined
  /** Tag or digest. */
  readonly ref: string | undefined
  readonly headers: IncomingHttpHeaders
  /** Of a POST to the token service, when it has come. */
  form?: URLSearchParams
  /** `performance.now()`. */
  readonly startedAt: number
  endedAt: number | undefined
  /** 0 while nothing was answered. */
  status: number
  /** Body bytes handed to the socket; up to a few hundred KiB of them may not have left it. */
  bytesSent: number
  /** The connection closed before the answer was complete, by whichever side. */
  aborted: boolean
}

export type Filter =
  | Kind
  | { kind?: Kind; method?: string; repo?: string; ref?: string; listener?: Listener; status?: number }
  | ((entry: LogEntry) => boolean)

export class RequestLog {
  #entries: LogEntry[] = []
  #current = new Map<Kind, number>()
  #highest = new Map<Kind, number>()
  #watchers = new Set<() => void>()

  get entries(): readonly LogEntry[] {
    return this.#entries
  }

  count(filter?: Filter): number {
    return this.of(filter).length
  }

  of(filter?: Filter): LogEntry[] {
    const matches = predicate(filter)
    return this.#entries.filter((entry) => matches(entry))
  }

  bytesSent(filter?: Filter): number {
    return this.of(filter).reduce((sum, entry) => sum + entry.bytesSent, 0)
  }

  /** Requests of that listener that carried an `Authorization`. */
  authorizationSeenBy(listener: Listener): number {
    return this.count((entry) => entry.listener === listener && entry.headers.authorization !== undefined)
  }

  /** The most requests of that kind that were ever open at the same time. */
  maxConcurrent(kind: Kind): number {
    return this.#highest.get(kind) ?? 0
  }

  inFlight(kind: Kind): number {
    return this.#current.get(kind) ?? 0
  }

  /** Resolves as soon as the log makes `condition` true; looked at when a request begins, sends or ends. */
  async until(condition: (log: RequestLog) => boolean): Promise<void> {
    if (condition(this)) return
    await new Promise<void>((resolve) => {
      const look = (): void => {
        if (!condition(this)) return
        this.#watchers.delete(look)
        resolve()
      }
      this.#watchers.add(look)
    })
  }

  clear(): void {
    this.#entries = []
    this.#highest = new Map(this.#current)
  }

  begin(entry: LogEntry): void {
    this.#entries.push(entry)
    const current = this.inFlight(entry.kind) + 1
    this.#current.set(entry.kind, current)
    this.#highest.set(entry.kind, Math.max(current, this.maxConcurrent(entry.kind)))
    this.changed()
  }

  end(entry: LogEntry): void {
    entry.endedAt = performance.now()
    this.#current.set(entry.kind, this.inFlight(entry.kind) - 1)
    this.changed()
  }

  changed(): void {
    for (const look of [...this.#watchers]) look()
  }
}

function predicate(filter: Filter | undefined): (entry: LogEntry) => boolean {
  if (filter === undefined) return () => true
  if (typeof filter === 'function') return filter
  if (typeof filter === 'string') return (entry) => entry.kind === filter
  const wanted = Object.entries(filter) as [keyof LogEntry, unknown][]
  return (entry) => wanted.every(([key, value]) => entry[key] === value)
}
