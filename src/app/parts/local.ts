/**
 * The local half of the program: what repositories that take pushes are made of, and what keeps house for them.
 */
import type { Logger } from 'pino'
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

interface PushingOptions {
  readonly config: Config
  readonly state: Storage
  readonly room: PushSpace
  readonly events: LocalContext['events']
  readonly settings: LocalContext['settings']
  readonly readableHere: LocalContext['readableHere']
  /** Told of what was pushed and is not here as it was pushed. */
  readonly suspect: (digest: Digest) => void
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
}

interface Pushing {
  readonly local: LocalContext
  readonly collector: Collector
}

export function createLocal(options: PushingOptions): Pushing {
  const { config, state, room, events, settings, readableHere, suspect, metrics, log, now } = options
  const { store, ingests, metadata, locks, holds, localNames, indexSince } = state
  const { sessionTtl: sessionTtlMs } = config.push
  const uploads = new UploadSessions({
    store,
    ingests,
    metadata,
    locks,
    holds,
    localNames,
    room,
    sessionTtlMs,
    log,
    now,
  })
  const collector = new Collector({
    ...{ store, metadata: state.index, locks, indexSince, metrics, log, now },
    pinned: (digest: Digest) => holds.has(digest),
    graceMs: config.push.gcGrace,
  })
  const bytes = new PushedContent({ store, metadata, suspect })
  const local = {
    ...{ store, bytes, ingests, metadata, locks, holds, localNames, uploads, room, events, settings },
    reserve: state.reserve,
    ...{ readableHere, log, now },
  }
  return { local, collector }
}

/** As the configuration has them at the moment they are read. */
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
