/**
 * What can go wrong at the simulated registry, and for which requests.
 *
 * Any number of rules may match one request; later ones win member by member. A rule counts a request when
 * its matcher fits, whether or not the behaviour shows (a `dropAfterBytes` on a redirect does nothing).
 */
import type { Kind, LogEntry } from './upstream-log.ts'

export interface Matcher {
  kind?: Kind | readonly Kind[]
  method?: string
  repo?: string
  ref?: string
  /** Any further condition. */
  when?: (entry: LogEntry) => boolean
  /** Only the nth fitting request, counted from 1. */
  nth?: number
  /** Only the first so many fitting requests. */
  times?: number
}

export interface Behaviour {
  /** Before anything is answered. */
  latencyMs?: number
  /** Answer with this instead; a redirect status needs `headers.location`. */
  status?: number
  /** Of a `status` answer: an OCI error, an HTML page, nothing, or this text. */
  body?: 'json' | 'html' | 'empty' | { text: string; type: string }
  /** OCI error code of a `json` body; else one that fits the status. */
  code?: string
  retryAfter?: string | number
  /** Set on whatever is answered; `undefined` removes one. */
  headers?: Record<string, string | string[] | undefined>
  /** `headers`: read the request, never answer. `midBody`: stop after half of the body (or `hangAfterBytes`). */
  hang?: 'headers' | 'midBody'
  hangAfterBytes?: number
  bytesPerSecond?: number
  /** Body bytes of this response after which it breaks off. */
  dropAfterBytes?: number
  /**
   * `rst`: connection reset. `fin`: closed in the middle. `cleanChunkEnd`: chunked, ended early and properly.
   * `shortContentLength`: declares only so many bytes. Default `rst`.
   */
  how?: 'rst' | 'fin' | 'cleanChunkEnd' | 'shortContentLength'
  /** Flips the byte at this offset of the blob or manifest. `tail` is its last one. */
  corrupt?: number | 'tail'
  /** Sends these bytes instead of the right ones. */
  replace?: Buffer
  /** 200 with everything, although a range was asked for. */
  ignoreRange?: boolean
  /** `Content-Range` as given; `none` leaves it out of a 206. */
  contentRange?: string
  noContentLength?: boolean
  /** `none` leaves `Docker-Content-Digest` out. */
  digestHeader?: string
  contentType?: string
  /** Closes the connection without a word. */
  emptyReply?: boolean
}

export interface Rule {
  /** Requests that fitted so far. */
  readonly hits: number
  remove(): void
}

export class Rules {
  #rules: { matcher: Matcher; behaviour: Behaviour; hits: number }[] = []

  /** Takes effect with the next request. */
  add(matcher: Matcher, behaviour: Behaviour): Rule {
    const rule = { matcher, behaviour, hits: 0 }
    this.#rules.push(rule)
    return {
      get hits() {
        return rule.hits
      },
      remove: () => {
        this.#rules = this.#rules.filter((it) => it !== rule)
      },
    }
  }

  clear(): void {
    this.#rules = []
  }

  /** Counts the request and says how to behave. */
  apply(entry: LogEntry): Behaviour {
    let behaviour: Behaviour = {}
    for (const rule of this.#rules) {
      if (!fits(rule.matcher, entry)) continue
      rule.hits += 1
      const { nth, times } = rule.matcher
      if (nth !== undefined && rule.hits !== nth) continue
      if (times !== undefined && rule.hits > times) continue
      behaviour = { ...behaviour, ...rule.behaviour }
    }
    return behaviour
  }
}

function fits(matcher: Matcher, entry: LogEntry): boolean {
  const kinds = typeof matcher.kind === 'string' ? [matcher.kind] : matcher.kind
  return (
    (kinds === undefined || kinds.includes(entry.kind)) &&
    (matcher.method === undefined || matcher.method === entry.method) &&
    (matcher.repo === undefined || matcher.repo === entry.repo) &&
    (matcher.ref === undefined || matcher.ref === entry.ref) &&
    (matcher.when === undefined || matcher.when(entry))
  )
}
