/**
 * Server: the program behind its port and its control socket, from its start to its graceful shutdown.
 *
 * Starting needs the disk and the port, never the network.
 */
import path from 'node:path'
import type { Logger } from 'pino'
import { serveExplain } from '../admin/api/explain-endpoint.ts'
import { openControl } from '../admin/control/server.ts'
import type { LiveConfig } from '../config/live.ts'
import { takesLocalPushes, type Config } from '../config/schema.ts'
import { AllowedHosts } from '../http/allowed-hosts.ts'
import { mostConnectionsOf } from '../http/connection-limit.ts'
import { ProxyWatch } from '../http/proxy-detection.ts'
import { HttpServer, type IfLoopback, type HttpTimeouts } from '../http/server.ts'
import { openLinuxSyscalls, type LinuxSyscalls } from '../http/transfer/linux-syscalls.ts'
import { XAccelRedirect } from '../http/transfer/x-accel-redirect.ts'
import { Search } from '../registry/search.ts'
import { ExternalReaders } from '../storage/blobs/external-readers.ts'
import type { MetadataStore } from '../storage/metadata/metadata.ts'
import { createMetrics, type Metrics } from '../telemetry/metrics.ts'
import { OpenFiles, openFilesLimit } from '../telemetry/open-files.ts'
import { watchCertificates } from './parts/certificate-authorities.ts'
import { openProgram, type ProgramOverrides } from './parts/program.ts'
import { SwitchableHubSearch } from './parts/upstreams.ts'
import { reload, type Reloaded } from './reload.ts'
import { startError } from './start-error.ts'

export interface AppOverrides extends ProgramOverrides {
  readonly log: Logger
  readonly metrics?: Metrics
  /** The address of Docker Hub's search. */
  readonly hubSearchUrl?: string
  readonly timeouts?: Partial<HttpTimeouts>
  /** How often the certificate files of upstreams are polled. Default 5 s. */
  readonly certificatesPollMs?: number
  /** The system calls that Node lacks; undefined: does without them, as on a system that has none. */
  readonly kernel?: LinuxSyscalls | undefined
}

export interface App {
  readonly metrics: Metrics
  /** The index, for tests; only after `start`. */
  readonly metadata: MetadataStore
  /** @throws StartError with a sentence for the operator */
  start(): Promise<{ url: string; host: string; port: number }>
  /**
   * Applies another configuration, as far as that needs no restart. Only after `start`.
   *
   * @throws StartError where a start with it would be refused; then nothing has changed
   */
  reload(config: Config): Promise<Reloaded>
  /** Graceful shutdown: running responses finish for up to `graceMs`, partial fills stay, the folder is unlocked. */
  close(graceMs: number): Promise<void>
}

export function createApp(config: Config, overrides: AppOverrides): App {
  const metrics = overrides.metrics ?? createMetrics()
  const closing = new AsyncDisposableStack()
  let metadata: MetadataStore | undefined
  let server: HttpServer | undefined
  let reloadTo: ((config: Config) => Promise<Reloaded>) | undefined

  const open = async (): Promise<{ url: string; host: string; port: number }> => {
    const { log, certificatesPollMs = 5_000 } = overrides
    const monotonic = overrides.now ?? (() => performance.now())
    const openFiles = new OpenFiles({ metrics, log, now: monotonic })
    let listeningPort = config.server.port
    const serve = { openFiles, busy: () => server?.busy === true, port: () => listeningPort }
    const program = await openProgram(config, { serve, metrics, log, overrides }, closing)
    const { live, storage, upstreams, registry, explainer } = program
    const { index, localNames, root } = storage
    metadata = index
    await program.notifier.start()
    closing.use(program.collector.schedule())

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
    const { host, port, publicUrl, sendfile, accelRedirect, accelFrom, tls } = config.server
    const { cert, key } = tls
    const externalReaders = new ExternalReaders(storage)
    const filesLimit = await openFilesLimit()
    const mostConnections = (): number | undefined =>
      filesLimit && mostConnectionsOf(filesLimit, connectionsTo(live.config.upstreams))
    const http = new HttpServer({
      ...{ sendfile, publicUrl, openFiles, registry, search, metrics, log },
      kernel: 'kernel' in overrides ? overrides.kernel : await openLinuxSyscalls(),
      // Clients may call an nginx in front of this server by any name, so no host is checked behind one.
      ...(accelRedirect === undefined
        ? { ifLoopback: ifLoopback(live, log) }
        : {
            accel: new XAccelRedirect({
              prefix: accelRedirect,
              from: accelFrom,
              tell: (digest, size) => externalReaders.tell(digest, size),
            }),
          }),
      mostConnections: mostConnections(),
      explain: (exchange, route) => serveExplain(exchange, route, explainer),
      events: program.notifier.events,
      tls: cert !== undefined && key !== undefined ? { cert, key } : undefined,
      ...(overrides.timeouts === undefined ? {} : { timeouts: overrides.timeouts }),
    })
    server = http
    listeningPort = (await http.listen(host, port)).port
    program.eviction.start()
    program.integrity.startScrub()
    closing.use(await openControl({ root, operations: program.operations, log }))
    reloadTo = async (it) => {
      const reloaded = await reload({ live, localNames, upstreams, hub, registry, log }, it)
      program.mirror.blobs.retire(new Set(upstreams.entries.map(({ origin }) => origin.upstream)))
      // The new disk budget may be smaller, and more upstreams may need more connections.
      program.diskSpace.changed()
      const most = mostConnections()
      if (most !== undefined) http.limitConnections(most)
      return reloaded
    }
    closing.use(watchCertificates({ live, apply: reloadTo, pollMs: certificatesPollMs, log }))
    const scheme = cert === undefined ? 'http' : 'https'
    const address = host.includes(':') ? `[${host}]` : host
    return { url: `${scheme}://${address}:${listeningPort}`, host, port: listeningPort }
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

/** The checks for a server that only this machine can reach, or only through a proxy on it. */
function ifLoopback(live: LiveConfig, log: Logger): IfLoopback {
  const takesLocal = (): boolean => takesLocalPushes(live.config) && !live.config.push.anonymous
  return {
    proxyWatch: new ProxyWatch({ takesLocalPushes: takesLocal, log }),
    hosts: new AllowedHosts({ publicUrl: live.config.server.publicUrl }),
  }
}

/** The most open connections: an upstream has up to two hosts, the registry's own and that of its blobs. */
function connectionsTo(upstreams: Config['upstreams']): number {
  return upstreams
    .map(({ maxConnections, credentials, fallbacks }) => {
      return 2 * maxConnections * (Math.max(credentials.length, 1) + fallbacks.length)
    })
    .reduce((sum, it) => sum + it, 0)
}
