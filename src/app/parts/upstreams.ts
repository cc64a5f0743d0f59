/** Upstreams: makes the clients of the configured registries, each with its accounts and its limits. */
import { isDeepStrictEqual } from 'node:util'
import type { Logger } from 'pino'
import type { Origin } from '../../cache/origin.ts'
import { SegmentPolicy } from '../../cache/download/segment-policy.ts'
import { UpstreamState } from '../../cache/resilience/upstream-state.ts'
import type { Config, UpstreamConfig } from '../../config/schema.ts'
import type { UpstreamEntry } from '../../registry/registry.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { OpenFiles } from '../../telemetry/open-files.ts'
import { AccountPool } from '../../upstream/client/account-pool.ts'
import type { InFlight } from '../../upstream/transport/in-flight.ts'
import { RegistryClient } from '../../upstream/client/registry-client.ts'
import { credentialSource } from '../../upstream/login/credential-source.ts'
import { Account } from '../../upstream/login/credentials.ts'
import { FallbackUpstream } from '../../upstream/client/fallbacks.ts'
import { HubSearch } from '../../upstream/client/hub-search.ts'
import { OfflineUpstream } from '../../upstream/client/offline.ts'
import { environmentOf } from '../../upstream/transport/proxy.ts'
import { RateLimitPause } from '../../upstream/limits/rate-limit-pause.ts'
import { TransferSlots } from '../../upstream/limits/transfer-slots.ts'
import type { Upstream } from '../../upstream/upstream.ts'

const DOCKER_HUB = {
  key: 'docker.io',
  url: 'https://registry-1.docker.io',
  search: 'https://hub.docker.com',
}

export interface UpstreamTools {
  readonly metrics: Metrics
  readonly openFiles?: Pick<OpenFiles, 'met'> | undefined
  readonly log: Logger
  readonly now: () => number
  readonly monotonic: () => number
  readonly shortestBudgetMs: number
  readonly inFlight: InFlight
}

/** @param reused the origin of an upstream with the same client settings */
export function createEntry(
  config: Config,
  upstream: UpstreamConfig,
  tools: UpstreamTools,
  reused?: Pick<Origin, 'upstream' | 'slots' | 'state' | 'segments'>,
): UpstreamEntry {
  return {
    origin: {
      upstream: reused?.upstream ?? createUpstream(config, upstream, tools),
      slots: reused?.slots ?? new TransferSlots(upstream.maxConnections),
      segments: reused?.segments ?? new SegmentPolicy({ ...upstream.segments, now: tools.monotonic }),
      state: reused?.state ?? new UpstreamState(tools.monotonic),
      tagTtlMs: upstream.tagTtl,
      immutableTags: upstream.immutableTags,
      on404: upstream.on404,
      reserve: upstream.reserve,
    },
    aliases: upstream.aliases,
    default: upstream.default,
    allow: upstream.allow,
    deny: upstream.deny,
  }
}

function createUpstream(config: Config, upstream: UpstreamConfig, tools: UpstreamTools): Upstream {
  if (upstream.offline) return new OfflineUpstream(upstream.key)
  const { key, url, fallbacks, ca, proxy, maxConnections, timeouts } = upstream
  const { metrics, openFiles, log, monotonic, shortestBudgetMs, inFlight } = tools
  const env = environmentOf(config.proxyEnvironment)
  const anonymous = {
    ...{ key, ca, proxy, env, maxConnections, timeouts, inFlight, metrics, openFiles, log },
    now: monotonic,
  }
  // Where a fallback can answer instead, two tries are enough.
  const common = fallbacks.length === 0 ? anonymous : { ...anonymous, tries: 2 }
  const pause = new RateLimitPause(monotonic)
  const clients = createAccounts(upstream, tools).map(
    (account) => new RegistryClient({ ...common, url, account, pause }),
  )
  const [only] = clients
  const own =
    only !== undefined && clients.length === 1 ? only : new AccountPool({ clients, now: monotonic, log })
  if (fallbacks.length === 0) return own
  // The credentials belong to the upstream itself, not to its fallbacks.
  const others = fallbacks.map((it) => ({
    url: it,
    upstream: new RegistryClient({ ...common, url: it, isFallback: true }),
  }))
  const sources = [{ url, upstream: own }, ...others]
  return new FallbackUpstream({ sources, shareMs: shortestBudgetMs / sources.length, log, now: monotonic })
}

/** One account for each in the configuration; one without credentials where there is none. */
function createAccounts(upstream: UpstreamConfig, tools: UpstreamTools): Account[] {
  const { key, url, credentials, timeouts } = upstream
  const { metrics, log, now, monotonic } = tools
  if (credentials.length === 0) return [new Account({ key, source: undefined, metrics, now })]
  return credentials.map((settings, at) => {
    const source = credentialSource(settings, {
      ...{ key, url, log },
      now: monotonic,
      timeoutMs: timeouts.headers,
    })
    return new Account({ key, label: String(at + 1), source, metrics, now })
  })
}

/**
 * Docker Hub's search, while the configuration has it: only if the upstream `docker.io` is Docker Hub itself, so that
 * no other host learns what clients search for.
 */
export class SwitchableHubSearch {
  readonly #url: string | undefined
  readonly #tools: Pick<UpstreamTools, 'metrics' | 'log' | 'now'>
  #settings: object | undefined
  #hub: HubSearch | undefined

  /** @param url replaces Docker Hub's own address */
  constructor(url: string | undefined, tools: Pick<UpstreamTools, 'metrics' | 'log' | 'now'>) {
    this.#url = url
    this.#tools = tools
  }

  async apply(config: Config): Promise<void> {
    const settings = this.#settingsOf(config)
    if (isDeepStrictEqual(settings, this.#settings)) return
    const before = this.#hub
    this.#settings = settings
    this.#hub = settings && new HubSearch({ ...this.#tools, ...settings })
    // The new settings stay applied even if the former search cannot be closed.
    await before?.close().catch((err: unknown) => this.#tools.log.debug({ err }, 'a search did not end well'))
  }

  async search(term: string, signal: AbortSignal): ReturnType<HubSearch['search']> {
    return (await this.#hub?.search(term, signal)) ?? []
  }

  async close(): Promise<void> {
    await this.#hub?.close()
  }

  #settingsOf({ upstreams, proxyEnvironment }: Config) {
    const hub = upstreams.find(({ key }) => key === DOCKER_HUB.key)
    if (hub === undefined || hub.offline) return undefined
    const url = this.#url ?? (hub.url === DOCKER_HUB.url ? DOCKER_HUB.search : undefined)
    const { key, proxy } = hub
    return url === undefined ? undefined : { key, url, proxy, env: environmentOf(proxyEnvironment) }
  }
}
