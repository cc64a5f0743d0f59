/** Status of an upstream in sentences, and why it cannot be asked anything now. */
import type { MirrorRef } from '../../cache/origin.ts'
import type { UpstreamError } from '../../upstream/upstream.ts'
import type { AccountStatus, UpstreamStatus } from '../../upstream/status.ts'
import type { UpstreamExplained } from './explanation.ts'
import { spanText } from '../../base/format.ts'

/** @param serving a server runs and asks upstreams; without one the status is unknown */
export function explainUpstream({ origin, name }: MirrorRef, serving: boolean): UpstreamExplained {
  const { key } = origin.upstream
  const status = origin.upstream.status()
  if (!serving) {
    const sentence = status.offline
      ? `the configuration says that ${key} is offline`
      : `no server runs: how ${key} does is not known`
    return { key, sentences: [sentence] }
  }
  const failing = origin.state.failing(name)?.message
  const sentences = [
    ...statusSentences(key, status),
    ...(failing === undefined ? [] : [`a short while ago: ${failing}`]),
    ...(origin.upstream.fallback === undefined ? [] : [`${origin.upstream.fallback} answers in its place`]),
  ]
  return {
    ...{ key, status },
    ...(failing === undefined ? {} : { failing }),
    sentences: sentences.length > 0 ? sentences : [`nothing is wrong with ${key}, as far as is known`],
  }
}

/** Why a request would fail at once. */
export interface Silence extends Pick<UpstreamError, 'failure' | 'offline'> {
  /** A clause, for a sentence that goes on. */
  readonly why: string
}

/** @returns undefined where upstream can be asked */
export function silenceOf({ origin, name }: MirrorRef): Silence | undefined {
  const { key, fallback } = origin.upstream
  const { offline, accounts } = origin.upstream.status()
  const unreachable = { failure: 'unreachable', offline } as const
  if (offline) return { ...unreachable, why: `${key} is offline by the configuration` }
  const failing = origin.state.failing(name)
  if (failing !== undefined) {
    const { failure, message } = failing
    const what = failure === 'denied' ? 'denies access' : 'cannot be asked'
    return { failure, offline, why: `${key} ${what} (${message})` }
  }
  if (fallback !== undefined || accounts.length === 0) return undefined
  if (accounts.every(({ breaker }) => breaker.state === 'open')) {
    const why = accounts[0]?.breaker.why
    return { ...unreachable, why: `${key} cannot be reached${why === undefined ? '' : ` (${why})`}` }
  }
  if (accounts.every(({ stoppedForMs }) => stoppedForMs !== undefined)) {
    return { ...unreachable, why: `${key} has had enough of our requests` }
  }
  return undefined
}

function statusSentences(key: string, { offline, accounts }: UpstreamStatus): string[] {
  if (offline) return [`the configuration says that ${key} is offline: it is never asked`]
  return accounts.flatMap((it) => {
    const whose = accounts.length > 1 ? `account ${it.account}: ` : ''
    return accountSentences(key, it).map((sentence) => whose + sentence)
  })
}

function accountSentences(key: string, account: AccountStatus): string[] {
  const { breaker, pulls, pullsStoppedForMs, stoppedForMs, complaint } = account
  const sentences: string[] = []
  if (breaker.state === 'open') {
    const why = breaker.why === undefined ? '' : ` (${breaker.why})`
    sentences.push(`${key} cannot be reached${why}: tried again in ${spanText(breaker.forMs ?? 0)}`)
  }
  if (breaker.state === 'half-open') sentences.push(`${key} could not be reached, and is being tried again`)
  if (stoppedForMs !== undefined) {
    sentences.push(`${key} has had enough of our requests: not asked for another ${spanText(stoppedForMs)}`)
  }
  if (pullsStoppedForMs !== undefined) {
    sentences.push(
      `${key} has had enough of our pulls: no manifest is fetched for another ${spanText(pullsStoppedForMs)}`,
    )
  }
  if (pulls !== undefined) {
    const { remaining, limit, windowMs, toldMsAgo } = pulls
    const of = limit === undefined ? '' : ` of ${limit}`
    const window = windowMs === undefined ? '' : ` in ${spanText(windowMs)}`
    sentences.push(`${remaining}${of} pulls are left${window}, as told ${spanText(toldMsAgo)} ago`)
  }
  if (complaint !== undefined) sentences.push(`${key} does not take our credentials: ${complaint}`)
  return sentences
}
