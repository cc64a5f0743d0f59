/**
 * The composition root: every object of the running program, built in one visible order.
 *
 * Nobody below knows a concrete class of another room. Starting needs the disk and the port, never the network.
 */
import path from 'node:path'
import type { Logger } from 'pino'
import type { DiskSpace } from '../cache/eviction/disk-space.ts'
import { StorageHealth } from '../cache/resilience/storage-health.ts'
import { takesLocalPushes, type Config } from '../config/schema.ts'
import { serveExplain } from '../admin/api/explain-endpoint.ts'
import { openControl } from '../admin/control/server.ts'
import { XAccelRedirect } from '../http/transfer/x-accel-redirect.ts'
import { mostConnectionsOf } from '../http/connection-limit.ts'
import { openLinuxSyscalls, type LinuxSyscalls } from '../http/transfer/linux-syscalls.ts'
import { isLoopback } from '../base/loopback.ts'
import { ProxyWatch } from '../http/proxy-detection.ts'
import { AllowedHosts } from '../http/allowed-hosts.ts'
import { createEviction } from './parts/eviction.ts'
import { HttpServer, type IfLoopback, type HttpTimeouts } from '../http/server.ts'
import { createOperations } from './parts/operations.ts'
import { LiveConfig } from '../config/live.ts'
import { BUDGETS, createMirror } from './parts/mirror.ts'
import { createLocal, pushSettings } from './parts/local.ts'
import { SwitchableHubSearch } from './parts/upstreams.ts'
import type { LocalContext } from '../registry/local/local-context.ts'
import { LocalPushTarget } from '../registry/local/local-push-target.ts'
import { LocalRepository } from '../registry/local/local-repository.ts'
import { MirrorRepository } from '../registry/mirror-repository.ts'
import { NameRegistry } from '../registry/registry.ts'
import { Search } from '../registry/search.ts'
import { createIntegrity, refetch } from './parts/integrity.ts'
import { reload, type Reloaded } from './reload.ts'
import { refuseShadowedNames, startError } from './start-error.ts'
import { openStorage } from './parts/storage.ts'
import type { Files } from '../storage/files/files.ts'
import { HungDiskWatch, type DiskTimeouts } from '../storage/files/hung-disk.ts'
import type { MetadataStore } from '../storage/metadata/metadata.ts'
import type { PartialLimits } from '../storage/ingest/partial-file.ts'
import { ExternalReaders } from '../storage/blobs/external-readers.ts'
import { createMetrics, type Metrics } from '../telemetry/metrics.ts'
import { OpenFiles, openFilesLimit } from '../telemetry/open-files.ts'
import { createNotifier } from './parts/notifications.ts'
import { createImageOperations } from './parts/image-operations.ts'
import { watchCertificates } from './parts/certificate-authorities.ts'
import { UpstreamSet } from './parts/upstream-set.ts'

export interface AppOverrides {
  readonly log: Logger
  readonly metrics?: Metrics
  /** Wall clock, in milliseconds: decides freshness. */
  readonly now?: () => number
  /** The file system under blobs and partial files. */
  readonly files?: Files
  /** How long a change of the disk is waited for. */
  readonly diskTimeouts?: DiskTimeouts
  /** How far a partial file may be ahead of its sync, and of its hash. */
  readonly partialLimits?: Partial<PartialLimits>
  /** The most that is taken of a blob whose size nobody tells. */
  readonly maxUntoldSize?: number
  readonly staleBudgetMs?: number
  readonly budgetMs?: number
  /** Where Docker Hub's search is. */
  readonly hubSearchUrl?: string
  readonly timeouts?: Partial<HttpTimeouts>
  /** How often the certificates of upstreams are looked at. Default 5 s. */
  readonly certificatesPollMs?: number
  /** The system's calls that Node does not have; undefined: nor have we. */
  readonly kernel?: LinuxSyscalls | undefined
  /** Whoever keeps the budget. */
  readonly room?: DiskSpace
}

export interface App {
  readonly metrics: Metrics
  /** For tests and commands that work beside the server. Only after `start`. */
  readonly metadata: MetadataStore
  /** @throws StartError with a sentence for the person who started us */
  start(): Promise<{ url: string; host: string; port: number }>
  /**
   * Goes on by another configuration, as far as one can without a new start. Only after `start`.
   *
   * @throws StartError where a start with it would be refused; nothing has changed then
   */
  reload(config: Config): Promise<Reloaded>
  /** Lets running responses finish for up to `graceMs`, keeps partial fills, frees the folder. */
  close(graceMs: number): Promise<void>
}

export function createApp(config: Config, overrides: AppOverrides): App {
  const metrics = overrides.metrics ?? createMetrics()
  const closing = new AsyncDisposableStack()
  let metadata: MetadataStore | undefined
  let server: HttpServer | undefined
  let reloadTo: ((config: Config) => Promise<Reloaded>) | undefined

  const open = async (): Promise<{ url: string; host: string; port: number }> => {
    const { log, files, partialLimits, maxUntoldSize } = overrides
    const now = overrides.now ?? Date.now
    const monotonic = overrides.now ?? (() => performance.now())
    const budgetMs = overrides.budgetMs ?? BUDGETS.budgetMs
    const staleBudgetMs = overrides.staleBudgetMs ?? BUDGETS.staleBudgetMs
    const live = new LiveConfig(config)

    // The state: closed last, in the reverse order.
    const openFiles = new OpenFiles({ metrics, log, now: monotonic })
    const diskWatch = new HungDiskWatch({ timeouts: overrides.diskTimeouts, onChange: sayHanging(log) })
    const hangsSince = (): number | undefined => diskWatch.hangsSince
    let indexStuckSince: number | undefined
    const onIndexStuck = (since: number | undefined): void => {
      indexStuckSince = since
      sayStuck(log, since)
    }
    const health = new StorageHealth({ metrics, openFiles, hangsSince, log, now })
    const report = (error: unknown): void => health.cleanupFailed(error)
    const state = await openStorage(config, closing, {
      ...{ files, diskWatch, partialLimits, report, monotonic, onIndexStuck },
    })
    const { index, localNames, root } = state
    refuseShadowedNames(config, localNames)
    metadata = index

    // What looks after the bytes.
    const { suspect, quarantine, scrub } = createIntegrity(
      {
        ...{ live, state, metrics, log, now },
        busy: () => mirror.blobs.busy || server?.busy === true,
        refetch: (lost) => refetch(lost, { entries: upstreams.entries, mirror, index, log }),
      },
      closing,
    )

    // The mirror.
    const shortestBudgetMs = staleBudgetMs
    const upstreams = closing.use(
      new UpstreamSet({ metrics, openFiles, log, now, monotonic, shortestBudgetMs }),
    )
    upstreams.apply(config)
    const evicting = createEviction({ live, state, metrics, log, now }, closing)
    const { evictor, pushRoom } = evicting
    const room = overrides.room ?? evictor
    state.fullDisk.makeRoom = (bytes) => room.reclaim(bytes)
    const mirror = createMirror(
      {
        ...{ live, state, health, room, suspect, evicting, metrics, log, now },
        ...{ staleBudgetMs, budgetMs, maxUntoldSize },
      },
      closing,
    )

    // What is pushed here.
    const { accelRedirect } = config.server
    // What nginx passes on comes from this machine, whoever it is.
    const loopbackListener = accelRedirect === undefined && isLoopback(config.server.host)
    const pushes = pushSettings(live, loopbackListener)
    let listeningPort = config.server.port
    const notifier = closing.use(
      createNotifier({ config, metadata: index, metrics, log, now, port: () => listeningPort }),
    )
    await notifier.start()
    const { events } = notifier
    const readableHere: LocalContext['readableHere'] = (name, digest) => registry.holds(name, digest)
    const { local, collector } = createLocal({
      ...{
        config,
        state,
        room: pushRoom,
        events,
        settings: pushes,
        readableHere,
        suspect,
        metrics,
        log,
        now,
      },
    })
    closing.use(collector.everyNowAndThen())
    // What the collector counts from is never older than this.
    const touchEveryMs = Math.min(3_600_000, config.push.gcGrace / 24)

    // The names, and the wire.
    const registry = new NameRegistry(
      {
        local: () => live.config.local,
        pushes,
        localNames,
        storageFailing: () => health.failing,
        storageFull: () => pushRoom.isFull(),
        storageHangsSince: () => hangsSince() ?? indexStuckSince,
        outOfFiles: () => openFiles.exhausted,
        quarantine,
        served: (mirrored) => mirror.served.has(mirrored),
        catalog: (page) => index.repositories.catalog(page),
        openLocal: (name) =>
          new LocalRepository({ bytes: local.bytes, metadata: index, touchEveryMs, log, now }, name),
        openPushes: (name, { cause }, assertFree) => new LocalPushTarget(local, name, { cause, assertFree }),
        openMirror: (mirrored, pushRefusal) => new MirrorRepository(mirror, mirrored, pushRefusal),
      },
      upstreams.entries,
    )
    const hub = closing.adopt(
      new SwitchableHubSearch(overrides.hubSearchUrl, { metrics, log, now: monotonic }),
      (it) => it.close(),
    )
    await hub.apply(config)
    const search = new Search({
      resolve: (name, namespace) => registry.resolve(name, namespace),
      catalog: (page, containing) => index.repositories.catalog(page, containing),
      hub,
    })
    const tending = createImageOperations({
      ...{ live, state, registry, mirror, evicting, local, serving: true, now },
    })
    const { explainer } = tending
    const { cert, key } = config.server.tls
    const toldFiles = new ExternalReaders(state)
    const filesLimit = await openFilesLimit()
    const mostConnections = (): number | undefined =>
      filesLimit && mostConnectionsOf(filesLimit, connectionsTo(live.config.upstreams))
    const http = new HttpServer({
      kernel: 'kernel' in overrides ? overrides.kernel : await openLinuxSyscalls(),
      sendfile: config.server.sendfile,
      accel:
        accelRedirect === undefined
          ? undefined
          : new XAccelRedirect({
              prefix: accelRedirect,
              from: config.server.accelFrom,
              tell: (digest, size) => toldFiles.tell(digest, size),
            }),
      publicUrl: config.server.publicUrl,
      // Who has an nginx in front is called whatever its clients call that.
      ...(accelRedirect === undefined ? { ifLoopback: ifLoopback(live, log) } : {}),
      mostConnections: mostConnections(),
      openFiles,
      registry,
      search,
      explain: (exchange, route) => serveExplain(exchange, route, explainer),
      events,
      metrics,
      log,
      tls: cert !== undefined && key !== undefined ? { cert, key } : undefined,
      ...(overrides.timeouts === undefined ? {} : { timeouts: overrides.timeouts }),
    })
    server = http
    const { port } = await http.listen(config.server.host, config.server.port)
    listeningPort = port
    const operations = createOperations({
      ...{ live, state, local, collector, evictor },
      tending,
      serving: true,
    })
    evicting.start()
    scrub()
    closing.use(await openControl({ root, operations, log }))
    reloadTo = async (it) => {
      const reloaded = await reload({ live, localNames, upstreams, hub, registry, log }, it)
      mirror.blobs.retire(new Set(upstreams.entries.map(({ origin }) => origin.upstream)))
      // There may be less room now, and more upstreams to be connected to.
      room.changed()
      const most = mostConnections()
      if (most !== undefined) http.limitConnections(most)
      return reloaded
    }
    const { certificatesPollMs = 5_000 } = overrides
    closing.use(watchCertificates({ live, apply: reloadTo, pollMs: certificatesPollMs, log }))
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
    async reload(config) {
      if (reloadTo === undefined) throw new Error('the app has not been started')
      return await reloadTo(config)
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

/** Of a server that only this machine can reach, or whatever passes requests on to it. */
function ifLoopback(live: LiveConfig, log: Logger): IfLoopback {
  const takesLocal = (): boolean => takesLocalPushes(live.config) && !live.config.push.anonymous
  return {
    proxyWatch: new ProxyWatch({ takesLocalPushes: takesLocal, log }),
    hosts: new AllowedHosts({ publicUrl: live.config.server.publicUrl }),
  }
}

/** The most at once: each of them may be asked at two places, the registry's own and where its blobs are. */
function connectionsTo(upstreams: Config['upstreams']): number {
  return upstreams
    .map(({ maxConnections, credentials, fallbacks }) => {
      return 2 * maxConnections * (Math.max(credentials.length, 1) + fallbacks.length)
    })
    .reduce((sum, it) => sum + it, 0)
}

function sayHanging(log: Logger): (since: number | undefined) => void {
  return (since) => {
    if (since === undefined) log.info('the disk answers again')
    else log.error({ since: new Date(since).toISOString() }, 'the disk does not answer: nothing is kept')
  }
}

function sayStuck(log: Logger, since: number | undefined): void {
  if (since === undefined) log.info('the index takes writes again')
  else log.error({ since: new Date(since).toISOString() }, 'the index takes no writes')
}
