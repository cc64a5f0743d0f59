/** Dependencies of the handlers of requests: what they need besides the exchange and its route. */
import type { Events } from '../registry/notifications/event.ts'
import type { Registry } from '../registry/registry.ts'
import type { Search } from '../registry/search.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { AllowedHosts } from './allowed-hosts.ts'
import type { Exchange } from './exchange.ts'
import type { ProxyWatch } from './proxy-detection.ts'
import type { RouteTo } from './routes.ts'
import type { CertificateHealth } from './tls.ts'
import type { BufferPool } from './transfer/buffer-pool.ts'
import type { LinuxSyscalls } from './transfer/linux-syscalls.ts'
import type { XAccelRedirect } from './transfer/x-accel-redirect.ts'

export type ExplainEndpoint = (exchange: Exchange, route: RouteTo<'explain'>) => Promise<void>

export interface Services {
  readonly registry: Registry
  readonly search: Pick<Search, 'find'>
  /** The end-point of the operator's side that answers beside the registry's own. */
  readonly explain: ExplainEndpoint
  readonly events: Pick<Events, 'pulled'>
  readonly metrics: Metrics
  readonly buffers: BufferPool
  /** Undefined: threads copy the bytes. */
  readonly kernel: LinuxSyscalls | undefined
  /** False: bytes are copied. */
  readonly sendfile: boolean
  /** Undefined: nobody in front of us sends our files. */
  readonly accel: XAccelRedirect | undefined
  readonly draining: () => boolean
  /** Undefined: we have none. */
  readonly certificate: () => CertificateHealth | undefined
  /** The address we listen on. */
  readonly listener: () => string
  /** What clients call us, where the configuration says so. */
  readonly publicUrl: string | undefined
  /** Undefined: nobody has to know of a proxy in front. */
  readonly proxyWatch: () => Pick<ProxyWatch, 'see'> | undefined
  /** What is read may be read by those; undefined: by any. */
  readonly hosts: () => Pick<AllowedHosts, 'serves'> | undefined
}
