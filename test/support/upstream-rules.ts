/**
 * What can go wrong at the simulated registry, and for which requests.
 *
 * Any number of rules may match one request; later ones win member by member. A rule counts a request when
 * its matcher fits, whether or not the behaviour shows (a `dropAfterBytes` on a redirect does nothing).
 */
import type { CdnError } from './upstream-cdn.ts'
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
  /** Only each so-manyeth fitting request: with 3 the third, the sixth, … */
  every?: number
}

export interface Behaviour {
  /** Before anything is answered. */
  latencyMs?: number
  /** Between the head and the first byte of the body. */
  ttfbMs?: number
  /** Answer with this instead; a redirect status needs `headers.location`. */
  status?: number
  /** A `status` for each fitting request in turn, the last one for all that follow; 200 is the usual answer. */
  sequence?: readonly number[]
  /** Of a `status` answer: an OCI error, an HTML page, nothing, or this text. */
  body?: 'json' | 'html' | 'empty' | { text: string; type: string }
  /** OCI error code of a `json` body; else one that fits the status. */
  code?: string
  retryAfter?: string | number
  /** What S3, Azure and captive portals say in place of a blob. */
  cdnError?: CdnError
  /** Set on whatever is answered; `undefined` removes one. */
  headers?: Record<string, string | string[] | undefined>
  /** `headers`: read the request, never answer. `midBody`: stop after half of the body (or `hangAfterBytes`). */
  hang?: 'headers' | 'midBody'
  hangAfterBytes?: number
  bytesPerSecond?: number
  /** A byte now and then, from the first one of the head or of the body on (or from `afterBytes` of it on). */
  slowloris?: { in: 'head' | 'body'; everyMs: number; afterBytes?: number }
  /** Body bytes of this response after which it breaks off. */
  dropAfterBytes?: number
  /**
   * `rst`: connection reset. `fin`: closed in the middle. `cleanChunkEnd`: chunked, ended early and properly.
   * `shortContentLength`: declares only so many bytes. Default `rst`.
   */
  how?: 'rst' | 'fin' | 'cleanChunkEnd' | 'shortContentLength'
  /** Flips the byte at this offset of the blob or manifest. `tail` is its last one. */
  corrupt?: number | 'tail'
  /** The same for its last byte, and only in an answer that does not begin at byte 0. */
  corruptOnlyOnResume?: boolean
  /** Sends these bytes instead of the right ones. */
  replace?: Buffer | ((bytes: Buffer) => Buffer)
  /** Other bytes of the same length, as if two blobs had been mixed up. */
  swapBodies?: boolean
  /** The right length, but zeros from the middle on. */
  truncateButPadZeros?: boolean
  /** After the last byte come more, without end. */
  infinite?: boolean
  /** 200 with everything, although a range was asked for. */
  ignoreRange?: boolean
  /** `Content-Range` as given; `none` leaves it out of a 206. */
  contentRange?: string | ((part: { start: number; end: number; size: number }) => string)
  /** `bytes 0-99/*` */
  starTotal?: boolean
  /** 416 for `bytes=5-`, while `bytes=5-9` is fine. */
  range416Open?: boolean
  /** `multipart/byteranges` also where one range was asked for. */
  multipartAlways?: boolean
  /** Chunked. */
  noContentLength?: boolean
  /**
   * How the body's end is told. `close`: by the end of the connection. `http10`: so, and in HTTP/1.0.
   * `trailers`: chunked, with fields after the last chunk. Default `length`.
   */
  framing?: 'length' | 'chunked' | 'close' | 'http10' | 'trailers'
  /** Declares so many bytes too many, or (negative) too few; all of the body is sent, and then closed. */
  wrongContentLength?: number
  /** Encodes the body whatever was asked for, and says so. */
  encoding?: 'gzip' | 'x-gzip' | 'deflate' | 'br' | 'zstd'
  /** `none` leaves `Docker-Content-Digest` out. */
  digestHeader?: string
  contentType?: string
  /** Closes the connection without a word. */
  emptyReply?: boolean
  /** Resets the connection without a word. */
  connReset?: boolean
  /** Closes a connection that has served before, as its next request arrives; a new one is served. */
  keepAliveRace?: boolean
  /** A header of so many bytes. */
  hugeHeaders?: number
  /** So many `102 Processing` before the answer, or nothing but them until the other side has had enough. */
  informational?: number | 'endless'
  /** What is done to the text of the head before it is sent. */
  spoilHead?: SpoiltHead
  /** These bytes (latin1) are all that is sent; then the connection is closed, reset, or left as it is. */
  raw?: { bytes: string; then?: 'fin' | 'rst' | 'hang' }
}

/** `bareLf`: lines end without their CR. `invalidChars`: a header holds NUL and other control characters. */
export type SpoiltHead = 'bareLf' | 'invalidChars' | 'noStatus'

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
      const { nth, times, every } = rule.matcher
      if (nth !== undefined && rule.hits !== nth) continue
      if (times !== undefined && rule.hits > times) continue
      if (every !== undefined && rule.hits % every !== 0) continue
      behaviour = { ...behaviour, ...rule.behaviour, ...statusInTurn(rule.behaviour.sequence, rule.hits) }
    }
    return behaviour
  }
}

function statusInTurn(sequence: readonly number[] | undefined, turn: number): Behaviour {
  const status = sequence?.[Math.min(turn, sequence.length) - 1]
  return status === undefined || status === 200 ? {} : { status }
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
