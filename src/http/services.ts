/** Dependencies that the request handlers share. */
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
  readonly explain: ExplainEndpoint
  readonly events: Pick<Events, 'pulled'>
  readonly metrics: Metrics
  readonly buffers: BufferPool
  /** Undefined: the kernel cannot be asked, and libuv's threads copy the bytes. */
  readonly kernel: LinuxSyscalls | undefined
  /** False: the process copies the bytes. */
  readonly sendfile: boolean
  /** Undefined: no nginx in front sends the files. */
  readonly accel: XAccelRedirect | undefined
  readonly draining: () => boolean
  /** Undefined: the server does not speak TLS. */
  readonly certificate: () => CertificateHealth | undefined
  /** Address on which the server listens. */
  readonly listener: () => string
  /** The configured URL of this server for its clients. */
  readonly publicUrl: string | undefined
  /** Undefined: the listener is not loopback, so a proxy in front does not matter. */
  readonly proxyWatch: () => Pick<ProxyWatch, 'see'> | undefined
  /** Allowed `Host` names of reads; undefined: any. */
  readonly hosts: () => Pick<AllowedHosts, 'serves'> | undefined
}
