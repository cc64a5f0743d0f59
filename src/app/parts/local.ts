/**
 * Local repositories: composes what repositories that take pushes need, and the garbage collector of pushed content.
 */
import type { PushSpace } from '../../cache/eviction/push-space.ts'
import { takesLocalPushes, type Config } from '../../config/schema.ts'
import type { LiveConfig } from '../../config/live.ts'
import type { Digest } from '../../oci/digest.ts'
import { Collector } from '../../storage/gc/collector.ts'
import type { LocalContext } from '../../registry/local/local-context.ts'
import type { PushSettings } from '../../registry/naming/push-policy.ts'
import { PushedContent } from '../../registry/local/pushed-content.ts'
import { UploadSessions } from '../../registry/uploads/upload-sessions.ts'
import type { Storage } from './storage.ts'
import type { Metrics } from '../../telemetry/metrics.ts'

interface LocalOptions extends Pick<LocalContext, 'events' | 'settings' | 'readableHere' | 'log' | 'now'> {
  readonly config: Config
  readonly storage: Storage
  readonly pushSpace: PushSpace
  /** Called with a pushed blob that is missing or damaged. */
  readonly suspect: (digest: Digest) => void
  readonly metrics: Metrics
}

export function createLocal(options: LocalOptions): { local: LocalContext; collector: Collector } {
  const { config, storage, pushSpace, events, settings, readableHere, suspect, metrics, log, now } = options
  const { store, ingests, metadata, locks, holds, localNames, reserve, index, indexSince } = storage
  const shared = { store, ingests, metadata, locks, holds, localNames, pushSpace, log, now }
  const uploads = new UploadSessions({ ...shared, sessionTtlMs: config.push.sessionTtl })
  const collector = new Collector({
    ...{ store, metadata: index, locks, indexSince, metrics, log, now },
    pinned: (digest) => holds.has(digest),
    graceMs: config.push.gcGrace,
  })
  const bytes = new PushedContent({ store, metadata, suspect })
  return { local: { ...shared, bytes, uploads, reserve, events, settings, readableHere }, collector }
}

/** Reads the settings from the configuration of the moment, so that a reload changes them. */
export function pushSettings(live: LiveConfig, loopbackListener: boolean): PushSettings {
  return {
    loopbackListener,
    get fromThisMachine() {
      return takesLocalPushes(live.config)
    },
    get anonymous() {
      return live.config.push.anonymous
    },
    get deny() {
      return live.config.push.deny
    },
    get immutable() {
      return live.config.push.immutable
    },
    get local() {
      return live.config.local
    },
  }
}
