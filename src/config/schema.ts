/**
 * The configuration: every key, its unit, its check, and the only place a default is written.
 *
 * A {@link Config} is complete: nothing in it needs another default, another file or the environment. Whatever
 * is wrong with a file is reported at once, in one {@link ConfigError}.
 */
import type { Milliseconds } from '../base/units.ts'
import { readFileSync } from 'node:fs'
import * as z from 'zod'
import { ALIASES, checkConfig, defaultUrlOf, HOST, nearest, type UpstreamFiles } from './checks.ts'
import { ConfigSource, pathText, type ConfigProblem, type Path } from './yaml.ts'
import { parsePercent } from './units.ts'
import {
  budget,
  duration,
  endpoint,
  flag,
  globs,
  headerValue,
  integer,
  leaf,
  nameGlobs,
  network,
  oneOf,
  origin,
  path,
  proxy,
  section,
  size,
  text,
  timeout,
} from './value-types.ts'

/** One account; which of its keys belong together is checked elsewhere. */
const accountKeys = {
  username: text('a user name without a colon', /^[^:]+$/s).optional(),
  password: text('a password, in quotes where it looks like a number').optional(),
  passwordFile: path().optional(),
  credentialsFile: path().optional(),
  credentialHelper: text('the NAME of a program docker-credential-NAME', /^[a-z0-9-]+$/).optional(),
}
const accountSchema = section(accountKeys)

const upstreamSchema = section({
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
  // Two at the least: one for a blob, one that no blob takes, for manifests.
  maxConnections: integer(2, 1024).prefault(8),
  // A registry that has not answered a connect after 5 s, or a head after 15 s, is worth less than the header
  // budget of the client that waits; a body may pause for 30 s, as CDNs do when they fetch it themselves.
  timeouts: section({
    connect: timeout().prefault('5s'),
    headers: timeout().prefault('15s'),
    idle: timeout().prefault('30s'),
    // A layer at this rate is of use to nobody, and would hold one of few turns for hours.
    minRate: size().prefault('1KiB'),
  }).prefault({}),
  segments: section({
    size: size(2 ** 20).prefault('16MiB'),
    parallel: integer(1, 64).prefault(4),
  }).prefault({}),
})

/** Characters of tags, and of names before a colon. */
const TAG_GLOB = /^(?:[a-z0-9._/*-]+:)?[A-Za-z0-9._*-]+$/

export const configSchema = section({
  server: section({
    host: text('a host name or an IP address', /^[A-Za-z0-9._:-]+$/).prefault('127.0.0.1'),
    port: integer(0, 65_535).prefault(5000),
    publicUrl: origin().optional(),
    shutdownGrace: duration().prefault('25s'),
    sendfile: flag().prefault(true),
    accelRedirect: text(
      'a path such as /internal-blobs/',
      /^\/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*\/)+$/,
    ).optional(),
    accelFrom: z.array(network(), 'a list of addresses').prefault(['127.0.0.0/8', '::1']),
    tls: section({ cert: path().optional(), key: path().optional() }).prefault({}),
  }).prefault({}),
  storage: section({ root: path().prefault('./data') }).prefault({}),
  cache: section({
    maxSize: budget().default({ bytes: 50 * 2 ** 30, percent: 80 }),
    minFree: budget().default({ bytes: 2 * 2 ** 30, percent: 5 }),
    tagTtl: duration().prefault('1m'),
    negativeTtl: duration().prefault('30s'),
    staleIfError: duration().prefault('30d'),
    staleIfDenied: duration().prefault('24h'),
    prefetch: oneOf('layers', 'config', 'off').prefault('layers'),
    finishAbandoned: leaf('always, never, or a share such as 25%', (value) => {
      if (value === 'always' || value === 'never') return value
      const percent = parsePercent(value)
      return percent === undefined ? undefined : { percent }
    }).prefault('always'),
    offline: flag().prefault(false),
    pin: globs(
      'a glob over full names, such as docker.io/library/alpine:3.*',
      /^[A-Za-z0-9._/:@*-]+$/,
    ).prefault([]),
    scrubInterval: duration().prefault('30d'),
  }).prefault({}),
  upstreams: z.record(z.string(), upstreamSchema, 'a map of registries').prefault({
    'docker.io': {},
    'quay.io': {},
    'gcr.io': {},
    'ghcr.io': {},
    'registry.k8s.io': {},
  }),
  local: nameGlobs().prefault([]),
  push: section({
    anonymous: flag().prefault(false),
    deny: nameGlobs().prefault(['library/**']),
    immutable: globs('a glob over tags, such as v*, or over name:tag, such as team/**:v*', TAG_GLOB).prefault(
      [],
    ),
    sessionTtl: duration().prefault('24h'),
    /** Default: unless something tells of a proxy in front; {@link takesLocalPushes}. */
    local: flag().optional(),
    /** Default: as long as an upload may take. */
    gcGrace: duration().optional(),
  }).prefault({}),
  /** Users come with a later release; until then the section has no keys. */
  auth: section({}).prefault({}),
  notifications: z
    .array(
      section({
        url: endpoint(),
        headers: z.record(z.string(), headerValue(), 'a map of header names and their values').prefault({}),
        ignoreActions: z
          .array(oneOf('pull', 'push', 'mount', 'delete'), 'a list of actions: pull, push, mount, delete')
          .prefault([]),
        timeout: timeout().prefault('5s'),
        backoff: timeout().prefault('1m'),
      }),
      'a list of end-points',
    )
    .prefault([]),
  log: section({
    level: oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent').prefault('info'),
  }).prefault({}),
})

type Parsed = z.output<typeof configSchema>
type ParsedUpstream = z.output<typeof upstreamSchema>
type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T

type CredentialSettings =
  | { readonly username: string; readonly password: string }
  | { readonly username: string; readonly passwordFile: string }
  | { readonly credentialsFile: string }
  | { readonly credentialHelper: string }

export interface UpstreamConfig extends DeepReadonly<
  Pick<
    ParsedUpstream,
    | 'fallbacks'
    | 'aliases'
    | 'deny'
    | 'maxConnections'
    | 'timeouts'
    | 'segments'
    | 'offline'
    | 'on404'
    | 'immutableTags'
    | 'reserve'
  >
> {
  /** Registry name, path prefix, value of `?ns=`. */
  readonly key: string
  /** An origin: `https://quay.io`. */
  readonly url: string
  /** Names without a registry go there; of one at most. */
  readonly default: boolean
  /** Where those of each account come from; files and programs are asked when they are needed. */
  readonly credentials: readonly CredentialSettings[]
  readonly tagTtl: Milliseconds
  /** undefined: everything; an empty list: nothing. */
  readonly allow: readonly string[] | undefined
  readonly maxSize: DeepReadonly<ParsedUpstream['maxSize']>
  /** PEM, and where it is from. */
  readonly ca: string | undefined
  readonly caFile: string | undefined
  readonly proxy: string | undefined
}

export interface Config extends DeepReadonly<Omit<Parsed, 'upstreams' | 'push'>> {
  readonly push: DeepReadonly<Parsed['push'] & { gcGrace: Milliseconds }>
  /** In the file's order. */
  readonly upstreams: readonly UpstreamConfig[]
  /** From `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, for upstreams without a `proxy` of their own. */
  readonly proxyEnvironment: {
    readonly httpProxy: string | undefined
    readonly httpsProxy: string | undefined
    readonly noProxy: string | undefined
  }
}

export interface LoadedConfig {
  readonly config: Config
  /** Sentences for the log. */
  readonly warnings: readonly string[]
}

/** Everything that is wrong with a configuration. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly problems: readonly ConfigProblem[]

  constructor(problems: readonly ConfigProblem[], file?: string) {
    const sorted = problems.toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0))
    const lines = sorted.map(({ path, line, message }) => {
      const place = [path, line === undefined ? '' : `(line ${line})`].filter((part) => part !== '').join(' ')
      return `  ${place === '' ? '' : `${place}: `}${message}`
    })
    super([`the configuration${file === undefined ? '' : ` ${file}`} is not valid:`, ...lines].join('\n'))
    this.problems = sorted
  }
}

/**
 * Whether programs on this machine may push without `push.anonymous`. Behind a proxy everybody is on this machine, and
 * one that is not told to say so cannot be told from a program here: so not by default where one is configured.
 */
export function takesLocalPushes({ push, server }: Pick<Config, 'push' | 'server'>): boolean {
  return push.local ?? (server.publicUrl === undefined && server.accelRedirect === undefined)
}

type Env = Readonly<Record<string, string | undefined>>

/**
 * @param from.file read when `text` is not given; neither: the defaults
 * @param from.env fills `${VAR}`, and overrides host, port and root
 * @throws ConfigError
 */
export function loadConfig(from: {
  file?: string | undefined
  text?: string | undefined
  env: Env
}): LoadedConfig {
  const source = new ConfigSource(from.text ?? readConfig(from.file), from.env, [
    [['server', 'host'], 'ENTREPOT_HOST'],
    [['server', 'port'], 'ENTREPOT_PORT'],
    [['storage', 'root'], 'ENTREPOT_ROOT'],
  ])
  const reported = new Set(source.problems.map(({ path }) => path))
  const result = configSchema.safeParse(source.tree)
  for (const issue of result.error?.issues ?? []) {
    // A text whose variable is missing is no news twice.
    if (!reported.has(pathText(issue.path as Path))) reportIssue(source, issue)
  }
  const files = checkConfig(source)
  if (source.problems.length > 0 || !result.data) throw new ConfigError(source.problems, from.file)
  return {
    config: complete(result.data, from.env, files),
    warnings: warningsOf(result.data),
  }
}

/** What is valid, and worth a second thought. */
function warningsOf({ push, server }: Parsed): string[] {
  return push.anonymous ? [`push.anonymous: whoever reaches ${server.host} may push`] : []
}

function readConfig(file: string | undefined): string {
  if (file === undefined) return ''
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new ConfigError(
      [{ path: '', line: undefined, message: `cannot be read: ${(error as Error).message}` }],
      file,
    )
  }
}

function reportIssue(source: ConfigSource, issue: z.core.$ZodIssue): void {
  const path = issue.path as Path
  if (issue.code !== 'unrecognized_keys') {
    source.report(path, `found ${source.found(path)}, expected ${issue.message}`)
    return
  }
  const known = keysAt(configSchema, path)
  for (const key of issue.keys) {
    const near = nearest(key, known)
    const hint = near
      ? `did you mean ${near}?`
      : known.length > 0
        ? `there are ${known.join(', ')}`
        : 'there are none yet'
    source.report([...path, key], `no such key; ${hint}`)
  }
}

/** The keys that a section knows. */
function keysAt(schema: z.core.$ZodType, path: Path): string[] {
  if (schema instanceof z.ZodPrefault || schema instanceof z.ZodOptional)
    return keysAt(schema.def.innerType, path)
  if (schema instanceof z.ZodRecord) return keysAt(schema.valueType, path.slice(1))
  if (schema instanceof z.ZodArray) return keysAt(schema.element, path.slice(1))
  if (!(schema instanceof z.ZodObject)) return []
  const [first, ...rest] = path
  if (first === undefined) return Object.keys(schema.shape)
  const inner = (schema.shape as Record<string, z.core.$ZodType>)[String(first)]
  return inner === undefined ? [] : keysAt(inner, rest)
}

function complete(parsed: Parsed, env: Env, files: UpstreamFiles): Config {
  const standard = defaultKey(parsed.upstreams)
  const upstreams = Object.entries(parsed.upstreams).map(([key, upstream]): UpstreamConfig => {
    const { allow, deny, maxSize, proxy, maxConnections } = upstream
    return {
      key,
      url: upstream.url ?? defaultUrlOf(key),
      fallbacks: upstream.fallbacks,
      default: key === standard,
      aliases: [...new Set([...(ALIASES.get(key) ?? []), ...upstream.aliases])],
      credentials: [upstream, ...upstream.credentials].flatMap((it) => credentialsOf(it) ?? []),
      tagTtl: upstream.tagTtl ?? parsed.cache.tagTtl,
      offline: parsed.cache.offline || upstream.offline,
      on404: upstream.on404,
      immutableTags: upstream.immutableTags,
      reserve: upstream.reserve,
      allow,
      deny,
      maxSize,
      ca: files.get(key)?.ca,
      caFile: upstream.ca,
      proxy,
      maxConnections,
      timeouts: upstream.timeouts,
      segments: upstream.segments,
    }
  })
  const proxyEnvironment = {
    httpProxy: env['http_proxy'] || env['HTTP_PROXY'] || undefined,
    httpsProxy: env['https_proxy'] || env['HTTPS_PROXY'] || undefined,
    noProxy: env['no_proxy'] || env['NO_PROXY'] || undefined,
  }
  const push = { ...parsed.push, gcGrace: parsed.push.gcGrace ?? parsed.push.sessionTtl }
  return { ...parsed, upstreams, push, proxyEnvironment }
}

/**
 * A name without a registry means Docker Hub to every client, so whoever mirrors it need not say so; a client that
 * is told 404 instead goes there itself.
 */
function defaultKey(upstreams: Parsed['upstreams']): string | undefined {
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
