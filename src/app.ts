/**
 * The composition root: every object of the running program, built in one visible order.
 *
 * Nobody below knows a concrete class of another room. Starting needs the disk and the port, never the network.
 */
import path from 'node:path'
import type { Logger } from 'pino'
import { BlobCache } from './cache/blob-cache.ts'
import { repositoryKey } from './cache/origin.ts'
import { InProcessFillLease } from './cache/fill-lease.ts'
import { Listings } from './cache/listings.ts'
import { ManifestCache } from './cache/manifest-cache.ts'
import { ManifestShelf } from './cache/manifest-shelf.ts'
import type { FinishAbandoned } from './cache/fill.ts'
import { Prefetch } from './cache/prefetch.ts'
import { StorageHealth } from './cache/storage-health.ts'
import { TolerantMetadata } from './cache/tolerant-metadata.ts'
import { TolerantBlobStore } from './cache/tolerant-store.ts'
import { InProcessUpstreamState } from './cache/upstream-state.ts'
import type { Config, UpstreamConfig } from './config.ts'
import { openControl } from './control/server.ts'
import { isLoopback } from './http/pusher.ts'
import { createHttpServer, type HttpServer, type HttpTimeouts } from './http/server.ts'
import { createOperations } from './keeping.ts'
import { Collector } from './registry/gc.ts'
import { LocalNames } from './registry/local-names.ts'
import { LocalRepository } from './registry/local.ts'
import { LocalPushes, type LocalContext } from './registry/local-pushes.ts'
import { MirrorRepository, type MirrorContext } from './registry/mirror.ts'
import { Pins } from './registry/pins.ts'
import { Uploads } from './registry/uploads.ts'
import { hiddenLocalNames, NameRegistry, type UpstreamEntry } from './registry/registry.ts'
import { Search } from './registry/search.ts'
import { StartError, startError } from './start-error.ts'
import { DiskBlobStore } from './store/disk.ts'
import { openIngests } from './store/disk-ingest.ts'
import { nodeFiles, type Files } from './store/files.ts'
import { Hashers } from './store/hasher.ts'
import { acquireRootLock } from './store/lock.ts'
import { InProcessLocks } from './store/locks.ts'
import type { MetadataStore } from './store/metadata.ts'
import type { PartialLimits } from './store/partial-file.ts'
import { indexSince, openMetadata } from './store/sqlite-metadata.ts'
import { createMetrics, type Metrics } from './telemetry/metrics.ts'
import { createNotifier } from './telling.ts'
import { RegistryClient } from './upstream/client.ts'
import { credentialSource } from './upstream/credential-source.ts'
import { Account } from './upstream/credentials.ts'
import { FallbackUpstream } from './upstream/fallbacks.ts'
import { HubSearch } from './upstream/hub-search.ts'
import { OfflineUpstream } from './upstream/offline.ts'
import { environmentOf } from './upstream/proxy.ts'
import { PrioritySlots } from './upstream/slots.ts'
import type { Upstream } from './upstream/upstream.ts'

/** Where something stale can answer, upstream gets this long; elsewhere the other. DESIGN "Freshness". */
const STALE_BUDGET_MS = 5_000
const BUDGET_MS = 15_000

const DOCKER_HUB = {
  key: 'docker.io',
  url: 'https://registry-1.docker.io',
  search: 'https://hub.docker.com',
}

export interface AppOverrides {
  readonly log: Logger
  readonly metrics?: Metrics
  /** Wall clock, in milliseconds: decides freshness. */
  readonly now?: () => number
  /** The file system under blobs and partial files. */
  readonly files?: Files
  /** How far a partial file may be ahead of its sync, and of its hash. */
  readonly partialLimits?: Partial<PartialLimits>
  /** The most that is taken of a blob whose size nobody tells. */
  readonly maxUntoldSize?: number
  readonly staleBudgetMs?: number
  readonly budgetMs?: number
  /** Where Docker Hub's search is. */
  readonly hubSearchUrl?: string
  readonly timeouts?: Partial<HttpTimeouts>
}

export interface App {
  readonly metrics: Metrics
  /** For tests and commands that work beside the server. Only after `start`. */
  readonly metadata: MetadataStore
  /** @throws StartError with a sentence for the person who started us */
  start(): Promise<{ url: string; host: string; port: number }>
  /** Lets running responses finish for up to `graceMs`, keeps partial fills, frees the folder. */
  close(graceMs: number): Promise<void>
}

export function createApp(config: Config, overrides: AppOverrides): App {
  const metrics = overrides.metrics ?? createMetrics()
  const closing = new AsyncDisposableStack()
  let metadata: MetadataStore | undefined
  let server: HttpServer | undefined

  const open = async (): Promise<{ url: string; host: string; port: number }> => {
    const { log } = overrides
    const now = overrides.now ?? Date.now
    const monotonic = overrides.now ?? (() => performance.now())
    const files = overrides.files ?? nodeFiles
    const root = path.resolve(config.storage.root)

    // The state: closed last, in the reverse order.
    closing.use(acquireRootLock(root))
    const hashers = closing.adopt(new Hashers(), (it) => it.close())
    const database = path.join(root, 'metadata.sqlite')
    const index = closing.adopt(await openMetadata(database), (it) => it.close())
    const localNames = await LocalNames.load(index)
    refuseHiddenNames(config, localNames)
    metadata = index
    const locks = new InProcessLocks()
    const health = new StorageHealth({ metrics, log, now })
    const store = new DiskBlobStore(root, files)
    const ingests = closing.adopt(
      await openIngests({
        root,
        files,
        hashers,
        sessionTtlMs: config.push.sessionTtl,
        ...(overrides.partialLimits === undefined ? {} : { limits: overrides.partialLimits }),
        report: (error) => health.neglected(error),
      }),
      (it) => it.close(),
    )

    // The mirror.
    const known = new TolerantMetadata(index, { metrics, log, now })
    const cached = new TolerantBlobStore(store, { metrics, log, now })
    const budgetMs = overrides.budgetMs ?? BUDGET_MS
    const staleBudgetMs = overrides.staleBudgetMs ?? STALE_BUDGET_MS
    const upstreams = config.upstreams.map((upstream) =>
      createEntry(config, upstream, { metrics, log, now, monotonic, shortestBudgetMs: staleBudgetMs }),
    )
    for (const { origin } of upstreams) closing.defer(() => origin.upstream.close())
    const shelf = new ManifestShelf({ store: cached, ingests, metadata: known, locks, now })
    const blobs = closing.adopt(
      new BlobCache({
        store: cached,
        ingests,
        metadata: known,
        named: (repository, digest) => shelf.namedBlob(repository, digest),
        lease: new InProcessFillLease(),
        locks,
        health,
        metrics,
        log,
        now,
        finishAbandoned: finishAbandoned(config),
        headerBudgetMs: budgetMs,
        maxUntoldSize: overrides.maxUntoldSize,
      }),
      (it) => it.close(),
    )
    const manifests = closing.adopt(
      new ManifestCache({
        shelf,
        metadata: known,
        health,
        freshness: {
          negativeTtlMs: config.cache.negativeTtl,
          staleIfErrorMs: config.cache.staleIfError,
          staleIfDeniedMs: config.cache.staleIfDenied,
          staleBudgetMs,
          budgetMs,
        },
        log,
        now,
      }),
      (it) => it.close(),
    )
    const mirror: MirrorContext = {
      manifests,
      blobs,
      prefetch: new Prefetch({ blobs, mode: config.cache.prefetch, log }),
      listings: new Listings({ repositories: known.repositories, budgetMs }),
      repositories: known.repositories,
    }

    // What is pushed here.
    const pushes = {
      ...config.push,
      local: config.local,
      loopbackListener: isLoopback(config.server.host),
    }
    let listeningPort = config.server.port
    const notifier = closing.use(
      createNotifier({ config, metadata: index, metrics, log, now, port: () => listeningPort }),
    )
    await notifier.start()
    const { events } = notifier
    // What the collector counts from is never older than this.
    const touchEveryMs = Math.min(3_600_000, config.push.gcGrace / 24)
    const uploads = new Uploads({ store, ingests, metadata: index, locks, localNames, log, now })
    const pins = new Pins()
    const collector = new Collector({
      ...{ store, metadata: index, locks, metrics, log, now },
      pinned: (digest) => pins.has(digest),
      graceMs: config.push.gcGrace,
      indexSince: await indexSince(database),
    })
    closing.use(collector.everyNowAndThen())
    const local: LocalContext = {
      store,
      ingests,
      metadata: index,
      locks,
      localNames,
      uploads,
      events,
      settings: pushes,
      readableHere: (name, digest) => registry.holds(name, digest),
      log,
      now,
    }

    // The names, and the wire.
    const registry = new NameRegistry({
      upstreams,
      local: config.local,
      pushes,
      localNames,
      storageFailing: () => health.failing,
      served: async (mirrored) =>
        (await index.repositories.get(repositoryKey(mirrored)))?.servedAt !== undefined,
      catalog: (page) => index.repositories.catalog(page),
      openLocal: (name) => new LocalRepository({ store, metadata: index, touchEveryMs, log, now }, name),
      openPushes: (name, { cause }) => new LocalPushes(local, name, cause),
      openMirror: (mirrored, maybeFirstPush) => new MirrorRepository(mirror, mirrored, maybeFirstPush),
    })
    const hub = createHubSearch(config, overrides.hubSearchUrl, { metrics, log, now: monotonic })
    if (hub !== undefined) closing.defer(() => hub.close())
    const search = new Search({
      resolve: (name, namespace) => registry.resolve(name, namespace),
      catalog: (page, containing) => index.repositories.catalog(page, containing),
      hub,
    })
    const { cert, key } = config.server.tls
    server = createHttpServer({
      registry,
      search,
      events,
      metrics,
      log,
      tls: cert !== undefined && key !== undefined ? { cert, key } : undefined,
      ...(overrides.timeouts === undefined ? {} : { timeouts: overrides.timeouts }),
    })
    const { port } = await server.listen(config.server.host, config.server.port)
    listeningPort = port
    const operations = createOperations({ config, local, collector, hashers, pins, serving: true })
    closing.use(await openControl({ root, operations, log }))
    const { host } = config.server
    const scheme = cert === undefined ? 'http' : 'https'
    return { url: `${scheme}://${host.includes(':') ? `[${host}]` : host}:${String(port)}`, host, port }
  }

  return {
    metrics,
    get metadata() {
      if (metadata === undefined) throw new Error('the app has not been started')
      return metadata
    },
    async start() {
      try {
        return await open()
      } catch (error) {
        await closing.disposeAsync()
        throw startError(error, {
          root: path.resolve(config.storage.root),
          host: config.server.host,
          port: config.server.port,
        })
      }
    },
    async close(graceMs) {
      try {
        await server?.close(graceMs)
      } finally {
        await closing.disposeAsync()
      }
    },
  }
}

interface EntryTools {
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
  readonly monotonic: () => number
  readonly shortestBudgetMs: number
}

function createEntry(config: Config, upstream: UpstreamConfig, tools: EntryTools): UpstreamEntry {
  const account = createAccount(upstream, tools)
  return {
    origin: {
      upstream: config.cache.offline
        ? new OfflineUpstream(upstream.key)
        : createUpstream(config, upstream, account, tools),
      account,
      slots: new PrioritySlots(upstream.maxConnections),
      state: new InProcessUpstreamState(tools.monotonic),
      tagTtlMs: upstream.tagTtl,
    },
    aliases: upstream.aliases,
    default: upstream.default,
    allow: upstream.allow,
    deny: upstream.deny,
  }
}

function createAccount(upstream: UpstreamConfig, tools: EntryTools): Account {
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
  tools: EntryTools,
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
function createHubSearch(
  config: Config,
  url: string | undefined,
  tools: Pick<EntryTools, 'metrics' | 'log' | 'now'>,
): HubSearch | undefined {
  const hub = config.upstreams.find(({ key }) => key === DOCKER_HUB.key)
  if (hub === undefined || config.cache.offline) return undefined
  const where = url ?? (hub.url === DOCKER_HUB.url ? DOCKER_HUB.search : undefined)
  if (where === undefined) return undefined
  const env = environmentOf(config.proxyEnvironment)
  return new HubSearch({ ...tools, key: hub.key, url: where, proxy: hub.proxy, env })
}

function finishAbandoned(config: Config): FinishAbandoned {
  const policy = config.cache.finishAbandoned
  return typeof policy === 'string' ? policy : { fraction: policy.percent / 100 }
}

/** @throws StartError naming what would become unreachable */
function refuseHiddenNames(config: Config, localNames: LocalNames): void {
  const names = new Set(config.upstreams.flatMap(({ key, aliases }) => [key, ...aliases]))
  const hidden = hiddenLocalNames(localNames, names, config.local)
  if (hidden.length === 0) return
  const some = hidden.slice(0, 10).join(', ')
  throw new StartError(
    `the configured upstreams would hide local repositories: ${some}${hidden.length > 10 ? ' …' : ''}`,
  )
}
