/**
 * Upstreams that will not let us in: tokens, challenges, credentials.
 */
import type { AuthOptions, TokenEndpoint, TokenOptions } from '../upstream-auth.ts'
import type { Fault } from './fault.ts'

/** What is not cached is refused; of what is under way, the rest cannot be had. */
const CLOSED: Fault['endings'] = { cold: ['refused'], 'in flight': ['broken', 'refused'] }
const ACCOUNT = { username: 'office+robot', password: 'p:ä"ss\nword' }

/** Behind tokens; on the bad day those that were given out are good no more, so that all begins anew. */
function behindTokens(
  name: string,
  changes: AuthOptions,
  endings: Fault['endings'] = {},
  good: TokenOptions = {},
): Fault {
  return {
    name,
    section: '4.1',
    upstream: { token: good },
    ...(good.credentials === undefined ? {} : { settings: { ...good.credentials } }),
    begin: (upstream) => {
      upstream.set(changes)
      upstream.tokens.revokeTokens()
    },
    endings,
  }
}

function tokenEndpoint(variant: string, options: TokenEndpoint): Fault {
  return behindTokens(`tokenEndpoint: ${variant}`, { tokenEndpoint: options }, CLOSED)
}

export const AUTH_FAULTS: readonly Fault[] = [
  tokenEndpoint('401', { status: 401, body: 'details' }),
  tokenEndpoint('403', { status: 403 }),
  tokenEndpoint('405', { status: 405 }),
  // Who limits us is left alone for ten seconds each time, by a transfer as well, which gives up after a minute.
  { ...tokenEndpoint('429', { status: 429, retryAfter: 1 }), budgetMs: 75_000 },
  tokenEndpoint('500', { status: 500, body: 'html' }),
  tokenEndpoint('html', { status: 200, body: 'html' }),
  // Each of the tries that a broken body gets waits for a token as long as for an answer.
  { ...tokenEndpoint('hang', { hang: true }), budgetMs: 40_000 },
  behindTokens(
    'tokenEndpoint: POST only',
    { tokenEndpoint: { getStatus: 405 } },
    {},
    { credentials: ACCOUNT, anonymous: false },
  ),
  {
    name: 'tokenEndpoint: 503 once',
    section: '4.1',
    upstream: { token: {} },
    begin: (upstream) => {
      upstream.tokens.revokeTokens()
      upstream.fault({ kind: 'token', times: 1 }, { status: 503 })
    },
    endings: {},
  },
  behindTokens('revokeTokens', {}),
  {
    name: 'tokenExpiresMidDownload',
    section: '4.1',
    upstream: { token: {} },
    begin: (upstream) => {
      upstream.fault({ kind: 'blob', times: 4 }, { dropAfterBytes: 100_000 })
      let over = false
      const expire = (): boolean => {
        if (!over) upstream.tokens.revokeTokens()
        over = true
        return true
      }
      upstream.fault({ kind: 'blob', when: expire }, {})
    },
    endings: {},
  },
  {
    name: 'insufficientScope',
    section: '4.1',
    upstream: { token: {} },
    begin: (upstream, { repo }) => {
      upstream.set({ token: { insufficientScope: { repos: [repo] } } })
      upstream.tokens.revokeTokens()
    },
    endings: CLOSED,
  },
  // Of the formats one in the header and one in its scope: what is read is the same for all.
  behindTokens('challengeFormat: basicFirst', { token: { challengeFormat: 'basicFirst' } }),
  behindTokens('challengeFormat: dummyScope', { token: { challengeFormat: 'dummyScope' } }),
  behindTokens('noChallengeOnResource', { token: { noChallengeOnResource: true } }),
  behindTokens(
    'ping: 500, noChallengeOnResource',
    { token: { noChallengeOnResource: true }, ping: { status: 500 } },
    // Who was let in before knows the way.
    { cold: ['refused'] },
  ),
  behindTokens('clockSkewMs, issuedAtPast', { token: { clockSkewMs: -3_600_000, issuedAtPast: true } }),
  behindTokens('hostileRealm: otherDomain', hostile('otherDomain'), CLOSED, { credentials: ACCOUNT }),
  behindTokens('hostileRealm: linkLocal', hostile('linkLocal'), CLOSED),
  {
    name: 'basicAuth: no more',
    section: '4.1',
    upstream: { basic: ACCOUNT },
    settings: ACCOUNT,
    begin: (upstream) => {
      upstream.set({ basic: { username: 'somebody', password: 'else' } })
    },
    endings: CLOSED,
  },
  {
    name: 'credsExpired',
    section: '4.1',
    upstream: { basic: ACCOUNT },
    settings: ACCOUNT,
    begin: (upstream) => {
      upstream.set({ credsExpired: true })
    },
    endings: CLOSED,
  },
]

function hostile(hostileRealm: NonNullable<TokenOptions['hostileRealm']>): AuthOptions {
  return { token: { hostileRealm, uses: 0, credentials: ACCOUNT } }
}
