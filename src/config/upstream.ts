/** Configuration of one upstream: its keys, their defaults, and the type with all of them filled in. */
import * as z from 'zod'
import type { Milliseconds } from '../base/units.ts'
import { ALIASES, defaultUrlOf, HOST, type UpstreamFiles } from './checks.ts'
import {
  budget,
  duration,
  flag,
  globs,
  integer,
  nameGlobs,
  oneOf,
  origin,
  path,
  proxy,
  section,
  size,
  text,
  timeout,
} from './value-types.ts'

/** One account; `checks.ts` checks which of its keys belong together. */
const accountKeys = {
  username: text('a user name without a colon', /^[^:]+$/s).optional(),
  password: text('a password, in quotes where it looks like a number').optional(),
  passwordFile: path().optional(),
  credentialsFile: path().optional(),
  credentialHelper: text('the NAME of a program docker-credential-NAME', /^[a-z0-9-]+$/).optional(),
}
const accountSchema = section(accountKeys)

export const upstreamSchema = section({
  url: origin().optional(),
  fallbacks: z.array(origin(), 'a list of http or https URLs').prefault([]),
  default: flag().optional(),
  aliases: z
    .array(text('a registry name: host or host:port, lower case', HOST), 'a list of registry names')
    .prefault([]),
  ...accountKeys,
  credentials: z.array(accountSchema, 'a list of accounts').prefault([]),
  tagTtl: duration().optional(),
  allow: nameGlobs().optional(),
  deny: nameGlobs().prefault([]),
  maxSize: budget().optional(),
  offline: flag().prefault(false),
  on404: oneOf('drop', 'keep').prefault('drop'),
  immutableTags: globs('a glob over tags, such as v*', /^[A-Za-z0-9._*-]+$/).prefault([]),
  reserve: integer(0, 1_000_000).prefault(5),
  ca: path().optional(),
  proxy: proxy().optional(),
  // At least two: one for a blob, and one that no blob takes, for manifests.
  maxConnections: integer(2, 1024).prefault(8),
  // A registry that has not answered a connect after 5 s, or a head after 15 s, would use up the header timeout of
  // the waiting client; a body may pause for 30 s, as CDNs do when they fetch it themselves.
  timeouts: section({
    connect: timeout().prefault('5s'),
    headers: timeout().prefault('15s'),
    idle: timeout().prefault('30s'),
    // A slower layer is of no use to a client, and would hold one of few transfer slots for hours.
    minRate: size().prefault('1KiB'),
  }).prefault({}),
  segments: section({
    size: size(2 ** 20).prefault('16MiB'),
    parallel: integer(1, 64).prefault(4),
  }).prefault({}),
})

type ParsedUpstream = z.output<typeof upstreamSchema>
export type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T

type CredentialSettings =
  | { readonly username: string; readonly password: string }
  | { readonly username: string; readonly passwordFile: string }
  | { readonly credentialsFile: string }
  | { readonly credentialHelper: string }

type OwnKeys =
  | keyof typeof accountKeys
  | 'credentials'
  | 'url'
  | 'default'
  | 'tagTtl'
  | 'allow'
  | 'maxSize'
  | 'ca'
  | 'proxy'

export interface UpstreamConfig extends DeepReadonly<Omit<ParsedUpstream, OwnKeys>> {
  /** The registry's name: the prefix of repository names, and the value of `?ns=`. */
  readonly key: string
  /** An origin: `https://quay.io`. */
  readonly url: string
  /** Names without a registry go to this upstream; at most one is the default. */
  readonly default: boolean
  /** The sources of each account's credentials; files and programs are read when a login needs them. */
  readonly credentials: readonly CredentialSettings[]
  readonly tagTtl: Milliseconds
  /** undefined: everything; an empty list: nothing. */
  readonly allow: readonly string[] | undefined
  readonly maxSize: DeepReadonly<ParsedUpstream['maxSize']>
  /** The content of {@link caFile} at the start, in PEM. */
  readonly ca: string | undefined
  readonly caFile: string | undefined
  readonly proxy: string | undefined
}

/** The settings that every upstream inherits from the section `cache`. */
interface CacheDefaults {
  readonly tagTtl: Milliseconds
  readonly offline: boolean
}

/** @returns in the file's order */
export function completeUpstreams(
  parsed: Readonly<Record<string, ParsedUpstream>>,
  cache: CacheDefaults,
  files: UpstreamFiles,
): UpstreamConfig[] {
  const standard = defaultKey(parsed)
  return Object.entries(parsed).map(([key, upstream]) => {
    const { fallbacks, on404, immutableTags, reserve, allow, deny, maxSize } = upstream
    const { proxy, maxConnections, timeouts, segments } = upstream
    return {
      key,
      url: upstream.url ?? defaultUrlOf(key),
      fallbacks,
      default: key === standard,
      aliases: [...new Set([...(ALIASES.get(key) ?? []), ...upstream.aliases])],
      credentials: [upstream, ...upstream.credentials].flatMap((it) => credentialsOf(it) ?? []),
      tagTtl: upstream.tagTtl ?? cache.tagTtl,
      offline: cache.offline || upstream.offline,
      ...{ on404, immutableTags, reserve, allow, deny, maxSize },
      ca: files.get(key)?.ca,
      caFile: upstream.ca,
      ...{ proxy, maxConnections, timeouts, segments },
    }
  })
}

/**
 * A name without a registry means Docker Hub to every client, so its mirror is the default unless the operator says
 * otherwise. A client that got a 404 instead would go to Docker Hub itself.
 */
function defaultKey(upstreams: Readonly<Record<string, ParsedUpstream>>): string | undefined {
  const chosen = Object.keys(upstreams).find((key) => upstreams[key]?.default === true)
  return chosen ?? (upstreams['docker.io']?.default === false ? undefined : 'docker.io')
}

function credentialsOf(account: z.output<typeof accountSchema>): CredentialSettings | undefined {
  const { username, password, passwordFile, credentialsFile, credentialHelper } = account
  if (credentialsFile !== undefined) return { credentialsFile }
  if (credentialHelper !== undefined) return { credentialHelper }
  if (username === undefined) return undefined
  if (password !== undefined) return { username, password }
  return passwordFile === undefined ? undefined : { username, passwordFile }
}
