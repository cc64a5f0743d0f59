/**
 * From the configuration to the registries that are asked: each with its account, its limits and what we
 * remember of it.
 */
import type { Logger } from 'pino'
import { InProcessUpstreamState } from './cache/upstream-state.ts'
import type { Config, UpstreamConfig } from './config.ts'
import type { UpstreamEntry } from './registry/registry.ts'
import type { Metrics } from './telemetry/metrics.ts'
import { RegistryClient } from './upstream/client.ts'
import { credentialSource } from './upstream/credential-source.ts'
import { Account } from './upstream/credentials.ts'
import { FallbackUpstream } from './upstream/fallbacks.ts'
import { HubSearch } from './upstream/hub-search.ts'
import { OfflineUpstream } from './upstream/offline.ts'
import { environmentOf } from './upstream/proxy.ts'
import { PrioritySlots } from './upstream/slots.ts'
import type { Upstream } from './upstream/upstream.ts'

const DOCKER_HUB = {
  key: 'docker.io',
  url: 'https://registry-1.docker.io',
  search: 'https://hub.docker.com',
}

export interface ReachingTools {
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
  readonly monotonic: () => number
  readonly shortestBudgetMs: number
}

export function createEntry(config: Config, upstream: UpstreamConfig, tools: ReachingTools): UpstreamEntry {
  const account = createAccount(upstream, tools)
  return {
    origin: {
      upstream: upstream.offline
        ? new OfflineUpstream(upstream.key)
        : createUpstream(config, upstream, account, tools),
      slots: new PrioritySlots(upstream.maxConnections),
      state: new InProcessUpstreamState(tools.monotonic),
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

function createAccount(upstream: UpstreamConfig, tools: ReachingTools): Account {
  const { key, url, credentials, timeouts } = upstream
  const { metrics, log, now, monotonic } = tools
  const source =
    credentials &&
    credentialSource(credentials, { key, url, log, now: monotonic, timeoutMs: timeouts.headers })
  return new Account({ key, source, metrics, now })
}

function createUpstream(
  config: Config,
  upstream: UpstreamConfig,
  account: Account,
  tools: ReachingTools,
): Upstream {
  const { key, url, fallbacks, ca, proxy, maxConnections, timeouts } = upstream
  const { metrics, log, monotonic, shortestBudgetMs } = tools
  const env = environmentOf(config.proxyEnvironment)
  const anonymous = { key, ca, proxy, env, maxConnections, timeouts, metrics, log, now: monotonic }
  const own = { ...anonymous, account, url }
  if (fallbacks.length === 0) return new RegistryClient(own)
  // Who has somebody behind it need not be asked as stubbornly. The credentials are for the first alone.
  const sources = [own, ...fallbacks.map((it) => ({ ...anonymous, url: it, isFallback: true }))].map(
    (options) => ({
      url: options.url,
      upstream: new RegistryClient({ ...options, tries: 2 }),
    }),
  )
  return new FallbackUpstream({ sources, shareMs: shortestBudgetMs / sources.length, log, now: monotonic })
}

/** Only for whose registry is Docker Hub itself: elsewhere our terms are nobody's business. */
export function createHubSearch(
  config: Config,
  url: string | undefined,
  tools: Pick<ReachingTools, 'metrics' | 'log' | 'now'>,
): HubSearch | undefined {
  const hub = config.upstreams.find(({ key }) => key === DOCKER_HUB.key)
  if (hub === undefined || hub.offline) return undefined
  const where = url ?? (hub.url === DOCKER_HUB.url ? DOCKER_HUB.search : undefined)
  if (where === undefined) return undefined
  const env = environmentOf(config.proxyEnvironment)
  return new HubSearch({ ...tools, key: hub.key, url: where, proxy: hub.proxy, env })
}
