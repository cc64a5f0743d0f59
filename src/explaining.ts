/**
 * From the parts of the program to the one that tells people what is here, beside a server or without one.
 */
import type { BlobCache } from './cache/blob-cache.ts'
import type { LiveConfig } from './live-config.ts'
import { Explainer } from './registry/explain.ts'
import type { NameRegistry } from './registry/registry.ts'
import type { State } from './state.ts'

interface ExplainingOptions {
  readonly live: LiveConfig
  readonly state: State
  readonly registry: Pick<NameRegistry, 'route'>
  /** Undefined where nothing is downloaded. */
  readonly fills: Pick<BlobCache, 'progress'> | undefined
  /** Upstreams are asked meanwhile. */
  readonly serving: boolean
  readonly now: () => number
}

export function createExplainer(options: ExplainingOptions): Explainer {
  const { live, state, registry, fills, serving, now } = options
  const { store, index: metadata, holds } = state
  return new Explainer({
    ...{ registry, store, metadata, fills, serving, now },
    inUse: (digest) => holds.has(digest),
    settings: () => {
      const { local, cache } = live.config
      const { pin, staleIfError, staleIfDenied } = cache
      return { local, pin, staleIfErrorMs: staleIfError, staleIfDeniedMs: staleIfDenied }
    },
  })
}
