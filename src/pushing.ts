/**
 * The local half of the program: what repositories that take pushes are made of, and what keeps house for them.
 */
import type { Logger } from 'pino'
import type { Config } from './config.ts'
import type { Digest } from './oci/digest.ts'
import { Collector } from './registry/gc.ts'
import type { LocalContext } from './registry/local-pushes.ts'
import { Uploads } from './registry/uploads.ts'
import type { State } from './state.ts'
import type { Metrics } from './telemetry/metrics.ts'

interface PushingOptions {
  readonly config: Config
  readonly state: State
  readonly events: LocalContext['events']
  readonly settings: LocalContext['settings']
  readonly readableHere: LocalContext['readableHere']
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
}

interface Pushing {
  readonly local: LocalContext
  readonly collector: Collector
}

export function createPushing(options: PushingOptions): Pushing {
  const { config, state, events, settings, readableHere, metrics, log, now } = options
  const { store, ingests, metadata, locks, holds, localNames, indexSince } = state
  const uploads = new Uploads({ store, ingests, metadata, locks, holds, localNames, log, now })
  const collector = new Collector({
    ...{ store, metadata: state.index, locks, indexSince, metrics, log, now },
    pinned: (digest: Digest) => holds.has(digest),
    graceMs: config.push.gcGrace,
  })
  const local = {
    ...{ store, ingests, metadata, locks, holds, localNames, uploads, events, settings, readableHere },
    ...{ log, now },
  }
  return { local, collector }
}
