/**
 * What people ask and do about single images: explain, ls, rm, refresh. Beside a server, or without one.
 */
import type { Operations } from '../../admin/operations.ts'
import type { EvictionParts } from './eviction.ts'
import type { LiveConfig } from '../../config/live.ts'
import {
  parseImageReference,
  parseReference,
  parseRepositoryName,
  type RepositoryName,
} from '../../oci/reference.ts'
import { Explainer } from '../../admin/explain/explainer.ts'
import { ImageList } from '../../admin/images/list.ts'
import type { LocalContext } from '../../registry/local/local-context.ts'
import { LocalPushTarget } from '../../registry/local/local-push-target.ts'
import { MirrorDeletion } from '../../admin/images/delete-mirrored.ts'
import type { MirrorContext } from '../../registry/mirror-repository.ts'
import { Refresher } from '../../admin/images/refresh-image.ts'
import type { NameRegistry } from '../../registry/registry.ts'
import { LocalDeletion } from '../../admin/images/delete-local.ts'
import type { Storage } from './storage.ts'

interface TendingOptions {
  readonly live: LiveConfig
  readonly state: Storage
  readonly registry: Pick<NameRegistry, 'route'>
  readonly mirror: Pick<MirrorContext, 'manifests' | 'blobs' | 'served'>
  readonly evicting: EvictionParts
  readonly local: LocalContext
  /** Upstreams are asked meanwhile, so that it is known how they do. */
  readonly serving: boolean
  readonly now: () => number
}

export interface ImageOperations {
  readonly explainer: Explainer
  readonly operations: Pick<Operations, 'explain' | 'ls' | 'rm' | 'release' | 'refresh'>
  /** That a repository of that name here would hide what the default upstream was seen to have; in words. */
  readonly pulledFromElsewhere: (name: RepositoryName) => Promise<string | undefined>
}

export function createImageOperations(options: TendingOptions): ImageOperations {
  const { live, state, registry, mirror, evicting, local, serving, now } = options
  const { store, index: metadata, holds } = state
  const { recency, images, removal, pinned } = evicting
  const { manifests, blobs } = mirror
  const latest = recency.latest.bind(recency)
  const explainer = new Explainer({
    ...{ registry, store, metadata, fills: blobs, manifests, latest, serving, now },
    inUse: (digest) => holds.has(digest),
    settings: () => {
      const { pin, negativeTtl } = live.config.cache
      return { local: live.config.local, pin, negativeTtlMs: negativeTtl }
    },
  })
  const listing = new ImageList({
    ...{ inventory: metadata.inventory, latest, now },
    pin: () => live.config.cache.pin,
  })
  const removals = new LocalDeletion({
    metadata,
    // Who may do that may change the configuration as well.
    openPushes: (name) => new LocalPushTarget({ ...local, settings: { immutable: [] } }, name),
    local: () => live.config.local,
  })
  const mirrorRemovals = new MirrorDeletion({ metadata, images, removal, pinned, manifests, now })
  const refresher = new Refresher({ registry, manifests, blobs, metadata, store })
  return {
    explainer,
    async pulledFromElsewhere(name) {
      const destination = await registry.route(name, undefined)
      if (destination?.rule !== 'default') return undefined
      const { origin } = destination.entry
      const served = await mirror.served.has({ origin, name: destination.name })
      return served
        ? `${name} was pulled from ${origin.upstream.key} through here, and would be hidden`
        : undefined
    },
    operations: {
      async *explain({ ref, namespace }) {
        yield await explainer.explain(parseImageReference(ref), namespace)
      },
      ls: ({ pattern }, signal) => listing.list(pattern, signal),
      async *rm({ name, reference }, signal) {
        const destination = await registry.route(parseRepositoryName(name), undefined)
        if (destination === undefined || !('entry' in destination)) {
          yield await removals.remove(name, reference)
          return
        }
        const mirrored = { origin: destination.entry.origin, name: destination.name }
        const parsed = reference === undefined ? undefined : parseReference(reference)
        yield await mirrorRemovals.remove(mirrored, parsed, signal)
      },
      async *release({ name }) {
        yield await removals.release(name)
      },
      refresh: ({ ref, namespace }, signal) => refresher.refresh(parseImageReference(ref), namespace, signal),
    },
  }
}
