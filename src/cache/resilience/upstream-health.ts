/**
 * Health of an upstream for `/readyz`: failures, limits of its accounts, refused credentials.
 */
import type { AccountStatus } from '../../upstream/status.ts'
import type { Origin } from '../origin.ts'

export interface UpstreamHealth {
  readonly key: string
  /** `offline`: the configuration says so, and nothing is wrong. */
  readonly state: 'ok' | 'failing' | 'denied' | 'offline'
  readonly message: string | undefined
  readonly fallback?: string | undefined
  /** Since when, and why, our credentials are refused. */
  readonly credentials?: string | undefined
}

export function healthOf({ upstream, state }: Origin): UpstreamHealth {
  const { offline, accounts } = upstream.status()
  if (offline) return { key: upstream.key, state: 'offline', message: 'offline by configuration' }
  const { fallback } = upstream
  const silence = limitOf(accounts) ?? (fallback === undefined ? openOf(accounts) : undefined)
  return {
    key: upstream.key,
    ...(silence === undefined ? state.health() : { state: 'failing', message: silence }),
    fallback,
    credentials: complaintsOf(accounts),
  }
}

/** The message, while no account may fetch a manifest. */
function limitOf(accounts: readonly AccountStatus[]): string | undefined {
  const waits = accounts.map(({ pullsStoppedForMs = 0, stoppedForMs = 0 }) =>
    Math.max(pullsStoppedForMs, stoppedForMs),
  )
  const shortest = Math.min(...waits)
  if (waits.length === 0 || shortest <= 0) return undefined
  const what = accounts.some(({ stoppedForMs }) => stoppedForMs !== undefined) ? 'requests' : 'pulls'
  return `limits our ${what}: asked again in ${Math.ceil(shortest / 1000)} s`
}

/** The message, while the breakers let no account ask anything. */
function openOf(accounts: readonly AccountStatus[]): string | undefined {
  const [first] = accounts.map(({ breaker }) => breaker).toSorted((a, b) => (a.forMs ?? 0) - (b.forMs ?? 0))
  if (first === undefined || accounts.some(({ breaker }) => breaker.state === 'closed')) return undefined
  const { state, forMs = 0, why = '' } = first
  const when = state === 'open' ? `asked again in ${Math.ceil(forMs / 1000)} s` : 'is being asked again'
  return `left alone, ${when}: ${why}`
}

function complaintsOf(accounts: readonly AccountStatus[]): string | undefined {
  const complaints = accounts.flatMap(({ account, complaint }) => {
    if (complaint === undefined) return []
    return [accounts.length === 1 ? complaint : `account ${account}: ${complaint}`]
  })
  return complaints.length === 0 ? undefined : complaints.join('; ')
}
