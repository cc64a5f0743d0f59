/**
 * What a certain registry does on the wire, as data: what the simulator is started with, and the quirks that
 * no option of it says.
 *
 * A quirk is a rule that is switched on for good. Of several that fit one request the later wins, so general
 * ones come first.
 */
import type { Credentials } from '../upstream-auth.ts'
import type { LogEntry } from '../upstream-log.ts'
import type { Behaviour, Matcher } from '../upstream-rules.ts'
import type { UpstreamOptions, UpstreamSimulator } from '../upstream.ts'

export type Quirk = readonly [Matcher, Behaviour]

export interface Profile {
  /** What a mirror's configuration calls it. */
  readonly key: string
  /** Where an image lies there. */
  readonly repository: string
  /** Of its manifests. */
  readonly format: 'oci' | 'docker'
  /** The one account that it knows; undefined: everything is open to everybody. */
  readonly account?: Credentials
  /** Gives nothing to those without the account. */
  readonly closed?: true
  readonly options: UpstreamOptions
  readonly quirks: (registry: UpstreamSimulator) => readonly Quirk[]
  /** Holds everything, under longer names, when the registry itself only sends people there. */
  readonly behind?: { readonly profile: Profile; readonly prefix: string }
}

/** An error in the registry's own words. */
export function says(
  status: number,
  code: string,
  message: string,
  { detail, headers }: { detail?: unknown; headers?: Record<string, string> } = {},
): Behaviour {
  const text = JSON.stringify({ errors: [{ code, message, ...(detail === undefined ? {} : { detail }) }] })
  return {
    status,
    body: { text, type: 'application/json' },
    ...(headers === undefined ? {} : { headers }),
  }
}

type Condition = (entry: LogEntry) => boolean

/** About a repository that it does not have. */
export function unknownRepository(registry: UpstreamSimulator): Condition {
  return ({ listener, kind, repo }) =>
    listener === 'registry' && kind !== 'cdn' && repo !== undefined && !has(registry, repo)
}

/** For a manifest that it does not have, of a repository that it has. */
export function unknownManifest(registry: UpstreamSimulator): Condition {
  return ({ kind, repo = '', ref = '' }) =>
    kind === 'manifest' && has(registry, repo) && registry.holdings.manifest(repo, ref) === undefined
}

/** For a token to a repository that it does not have. */
export function unknownScope(registry: UpstreamSimulator): Condition {
  return ({ kind, url }) => {
    if (kind !== 'token') return false
    const scope = new URL(url, 'http://token').searchParams.get('scope') ?? ''
    const repo = /^repository:(.+):pull$/.exec(scope)?.[1]
    return repo !== undefined && !has(registry, repo)
  }
}

/** For a token, by somebody with another name or password than that. */
export function unknownUser(account: Credentials): Condition {
  return ({ kind, headers: { authorization } }) =>
    kind === 'token' && authorization !== undefined && authorization !== basicOf(account)
}

export function basicOf({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

/** After the token service was asked, not before: what a registry says to those who are let in. */
export function admitted(condition: Condition): Condition {
  return (entry) => entry.headers.authorization !== undefined && condition(entry)
}

function has(registry: UpstreamSimulator, repo: string): boolean {
  return registry.holdings.repositories.has(repo)
}
