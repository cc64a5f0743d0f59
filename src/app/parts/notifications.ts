/**
 * Notifications: makes the notifier of the configuration, which posts events to its endpoints.
 *
 * Events of a command that runs alone wait for the next server.
 */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Logger } from 'pino'
import type { Config } from '../../config/schema.ts'
import { Notifier } from '../../registry/notifications/notifier.ts'
import type { MetadataStore } from '../../storage/metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { environmentOf, proxyFor } from '../../upstream/transport/proxy.ts'

interface NotifierParts {
  readonly config: Config
  readonly metadata: MetadataStore
  /** The server's port, once it listens. */
  readonly port: () => number
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
}

/** The notifier delivers nothing until it is started. */
export function createNotifier({ config, port, ...parts }: NotifierParts): Notifier {
  const { publicUrl, tls } = config.server
  const env = environmentOf(config.proxyEnvironment)
  const instanceID = randomUUID()
  return new Notifier({
    ...parts,
    endpoints: config.notifications.map((it) => ({ ...it, proxy: proxyFor(new URL(it.url), { env }) })),
    publicUrl,
    scheme: tls.cert === undefined ? 'http' : 'https',
    source: () => ({ addr: `${hostname()}:${port()}`, instanceID }),
  })
}
