/**
 * How often the simulated registry may be asked, and what it says when that was too often.
 */
import { sendError, sendSmall, type Call, type HeaderMap } from './upstream-send.ts'

export interface RateLimit {
  /** Requests within the window. */
  limit: number
  /** Default six hours, as Docker Hub's. It begins with the first request, and anew when it has run out. */
  windowMs?: number
  /** `manifestGet`: Docker Hub's pulls. `all`: what a guard against abuse counts (ECR public). Default `manifestGet`. */
  counts?: 'manifestGet' | 'all'
  /** HEAD of a manifest counts like GET. Default false. */
  countHead?: boolean
  /** Says in each answer how much is left. Default true. */
  headers?: boolean
  source?: string
  /** Default `json`. */
  body?: 'json' | 'text' | 'HAP429' | 'empty'
  /**
   * Seconds (`Retry-After`), the same as a date, a moment that has passed, the same as a Unix time in
   * `X-Retry-After`, or nothing. Default `none`, as Docker Hub.
   */
  retryAfter?: 'secs' | 'date' | 'past' | 'xUnix' | 'none'
  /** Default 60. */
  retryAfterSeconds?: number
  /** A refusal that asks for credentials, too. */
  challenge?: string
  /** Each `Authorization` has its own. Default: one for all. */
  perAccount?: boolean
  /** In ms, in place of the process's clock. */
  now?: () => number
}

interface Window {
  used: number
  start: number
}

export class RateLimiter {
  #limit: RateLimit | undefined
  /** By account. */
  readonly #windows = new Map<string, Window>()

  /** False: the request was one too many, and has been answered. */
  admit(call: Call, limit: RateLimit | undefined): boolean {
    if (limit !== this.#limit) {
      this.#limit = limit
      this.#windows.clear()
    }
    if (limit === undefined) return true
    const { windowMs = 6 * 3_600_000 } = limit
    const window = this.#windowOf(call, limit, windowMs)
    if (!counts(call, limit)) {
      tellQuota(call, limit, window.used, windowMs)
      return true
    }
    window.used += 1
    tellQuota(call, limit, window.used, windowMs)
    if (window.used <= limit.limit) return true
    refuse(call, limit)
    return false
  }

  #windowOf({ entry }: Call, limit: RateLimit, windowMs: number): Window {
    const { perAccount = false, now = () => performance.now() } = limit
    const account = perAccount ? (entry.headers.authorization ?? '') : ''
    const known = this.#windows.get(account)
    if (known !== undefined && now() - known.start <= windowMs) return known
    const window = { used: 0, start: now() }
    this.#windows.set(account, window)
    return window
  }
}

function counts({ entry }: Call, { counts = 'manifestGet', countHead = false }: RateLimit): boolean {
  if (counts === 'all') return true
  return entry.kind === 'manifest' && (entry.method === 'GET' || countHead)
}

function tellQuota(call: Call, { limit, headers = true, source }: RateLimit, used: number, windowMs: number) {
  if (!headers || call.entry.kind !== 'manifest') return
  const window = `;w=${Math.round(windowMs / 1000)}`
  call.response.setHeader('ratelimit-limit', `${limit}${window}`)
  call.response.setHeader('ratelimit-remaining', `${Math.max(0, limit - used)}${window}`)
  if (source !== undefined) call.response.setHeader('docker-ratelimit-source', source)
}

const TEXT = 'Too Many Requests (HAP429).\n'

function refuse(call: Call, limit: RateLimit): void {
  const { body = 'json', challenge } = limit
  const headers: HeaderMap = {
    ...retryAfterOf(limit),
    ...(challenge === undefined ? {} : { 'www-authenticate': challenge }),
  }
  if (body === 'json') sendError(call, 429, 'TOOMANYREQUESTS', headers)
  else if (body === 'empty') sendSmall(call, 429, '', headers)
  else {
    const type = { 'content-type': 'text/plain' }
    const hap = body === 'HAP429' ? { 'cache-control': 'no-cache', connection: 'close' } : {}
    sendSmall(call, 429, body === 'HAP429' ? TEXT : 'slow down\n', { ...type, ...hap, ...headers })
  }
}

function retryAfterOf({ retryAfter = 'none', retryAfterSeconds = 60 }: RateLimit): HeaderMap {
  const at = Date.now() + retryAfterSeconds * 1000
  switch (retryAfter) {
    case 'secs':
      return { 'retry-after': retryAfterSeconds }
    case 'date':
      return { 'retry-after': new Date(at).toUTCString() }
    case 'past':
      return { 'retry-after': new Date(Date.now() - 3_600_000).toUTCString() }
    case 'xUnix':
      return { 'x-retry-after': Math.ceil(at / 1000) }
    case 'none':
      return {}
  }
}
