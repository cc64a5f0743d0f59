/**
 * Schema of the configuration: every key with its unit, its check and its default; `upstream.ts` has those of an
 * upstream. No default is written anywhere else.
 *
 * A {@link Config} is complete: nothing in it needs another default, another file or the environment. One
 * {@link ConfigError} reports everything that is wrong with a file.
 */
import { readFileSync } from 'node:fs'
import * as z from 'zod'
import type { Milliseconds } from '../base/units.ts'
import { checkConfig, type UpstreamFiles } from './checks.ts'
import { ConfigError, reportIssue } from './config-error.ts'
import { parsePercent } from './units.ts'
import { completeUpstreams, upstreamSchema, type DeepReadonly, type UpstreamConfig } from './upstream.ts'
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
  section,
  text,
  timeout,
} from './value-types.ts'
import { ConfigSource, pathText, type Path } from './yaml.ts'

export { ConfigError, type UpstreamConfig }

/** The characters of tags, and of names before a colon. */
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
    /** Default: on, unless a setting tells of a proxy in front; {@link takesLocalPushes}. */
    local: flag().optional(),
    /** Default: the time limit of an upload. */
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

/**
 * Whether programs on this machine may push without `push.anonymous`. Behind a proxy every client seems to be on this
 * machine, unless the proxy adds a header that says otherwise: so the default is no where a proxy is configured.
 */
export function takesLocalPushes({ push, server }: Pick<Config, 'push' | 'server'>): boolean {
  return push.local ?? (server.publicUrl === undefined && server.accelRedirect === undefined)
}

type Env = Readonly<Record<string, string | undefined>>

/**
 * @param from.file read when `text` is not given; without both the defaults apply
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
    // A value whose variable is missing is reported already, with the variable's name.
    if (!reported.has(pathText(issue.path as Path))) reportIssue(configSchema, source, issue)
  }
  const files = checkConfig(source)
  if (source.problems.length > 0 || !result.data) throw new ConfigError(source.problems, from.file)
  return {
    config: complete(result.data, from.env, files),
    warnings: warningsOf(result.data),
  }
}

/** Sentences about valid settings that the operator should know of. */
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

function complete(parsed: Parsed, env: Env, files: UpstreamFiles): Config {
  const proxyEnvironment = {
    httpProxy: env['http_proxy'] || env['HTTP_PROXY'] || undefined,
    httpsProxy: env['https_proxy'] || env['HTTPS_PROXY'] || undefined,
    noProxy: env['no_proxy'] || env['NO_PROXY'] || undefined,
  }
  const push = { ...parsed.push, gcGrace: parsed.push.gcGrace ?? parsed.push.sessionTtl }
  const upstreams = completeUpstreams(parsed.upstreams, parsed.cache, files)
  return { ...parsed, upstreams, push, proxyEnvironment }
}
