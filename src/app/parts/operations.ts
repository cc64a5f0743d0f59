/** Operations of the commands, over the parts of a running server, or of a program that owns the folder alone. */
import { availableParallelism } from 'node:os'
import { backup } from '../../admin/archive/write-archive.ts'
import { restore } from '../../admin/archive/restore-archive.ts'
import { Explainer } from '../../admin/explain/explainer.ts'
import { LocalDeletion } from '../../admin/images/delete-local.ts'
import { MirrorDeletion } from '../../admin/images/delete-mirrored.ts'
import { ImageList } from '../../admin/images/list.ts'
import { Refresher } from '../../admin/images/refresh-image.ts'
import type { Operations } from '../../admin/operations.ts'
import { OperatorError } from '../../base/operator-error.ts'
import type { Share } from '../../cache/eviction/limits.ts'
import type { LiveConfig } from '../../config/live.ts'
import { parsePercent, parseSize } from '../../config/units.ts'
import {
  parseImageReference,
  parseReference,
  parseRepositoryName,
  type RepositoryName,
} from '../../oci/reference.ts'
import type { LocalContext } from '../../registry/local/local-context.ts'
import { LocalPushTarget } from '../../registry/local/local-push-target.ts'
import type { MirrorContext } from '../../registry/mirror-repository.ts'
import { reservingGlob } from '../../registry/naming/push-policy.ts'
import { shadowedNames } from '../../registry/naming/shadowed-names.ts'
import type { NameRegistry } from '../../registry/registry.ts'
import { DiskBlobAudit } from '../../storage/blobs/disk-audit.ts'
import { NewFile, OutsideFile } from '../../storage/files/atomic-file.ts'
import { nodeFiles } from '../../storage/files/files.ts'
import type { Collector } from '../../storage/gc/collector.ts'
import { verify } from '../../storage/integrity/verify.ts'
import type { EvictionParts } from './eviction.ts'
import type { Storage } from './storage.ts'

const VERIFY_LANES = Math.min(availableParallelism(), 4)

/** The same objects that the rest of the process uses. */
interface OperationParts {
  readonly live: LiveConfig
  readonly storage: Storage
  readonly registry: Pick<NameRegistry, 'route'>
  readonly mirror: Pick<MirrorContext, 'manifests' | 'blobs' | 'served'>
  readonly eviction: EvictionParts
  readonly local: LocalContext
  readonly collector: Collector
  /** A server runs: clients pull and push meanwhile, and the upstreams' status is known. */
  readonly serving: boolean
  readonly now: () => number
}

export function createOperations(parts: OperationParts): { operations: Operations; explainer: Explainer } {
  const explainer = createExplainer(parts)
  return { explainer, operations: { ...imageOperations(parts, explainer), ...folderOperations(parts) } }
}

type ImageOperations = Pick<Operations, 'explain' | 'ls' | 'rm' | 'release' | 'refresh'>

function imageOperations(parts: OperationParts, explainer: Explainer): ImageOperations {
  const { live, registry, mirror, eviction, local, now } = parts
  const { store, index: metadata } = parts.storage
  const { accessTimes, candidates, removal, pins } = eviction
  const { manifests, blobs } = mirror
  const list = new ImageList({
    ...{ inventory: metadata.inventory, now },
    latest: accessTimes.latest.bind(accessTimes),
    pin: () => live.config.cache.pin,
  })
  const localDeletion = new LocalDeletion({
    metadata,
    // The command ignores `push.immutable`: its operator may change the configuration as well.
    openPushes: (name) => new LocalPushTarget({ ...local, settings: { immutable: [] } }, name),
    local: () => live.config.local,
  })
  const mirrorDeletion = new MirrorDeletion({ metadata, candidates, removal, pins, manifests, now })
  const refresher = new Refresher({ registry, manifests, blobs, metadata, store })
  return {
    async *explain({ ref, namespace }) {
      yield await explainer.explain(parseImageReference(ref), namespace)
    },
    ls: ({ pattern }, signal) => list.list(pattern, signal),
    async *rm({ name, reference }, signal) {
      const destination = await registry.route(parseRepositoryName(name), undefined)
      if (destination === undefined || !('entry' in destination)) {
        yield await localDeletion.remove(name, reference)
        return
      }
      const mirrored = { origin: destination.entry.origin, name: destination.name }
      const parsed = reference === undefined ? undefined : parseReference(reference)
      yield await mirrorDeletion.remove(mirrored, parsed, signal)
    },
    async *release({ name }) {
      yield await localDeletion.release(name)
    },
    refresh: ({ ref, namespace }, signal) => refresher.refresh(parseImageReference(ref), namespace, signal),
  }
}

function folderOperations(parts: OperationParts): Omit<Operations, keyof ImageOperations> {
  const { live, local, collector, eviction, serving, now } = parts
  const { root, hashers, holds, index, store, locks, localNames } = parts.storage
  const disk = new DiskBlobAudit({ root, files: nodeFiles, hashers })
  const shared = { disk, store, metadata: index, now, serving }
  // Without the retry on a full disk: a check that holds a blob must not wait for an eviction that waits for it.
  const forVerify = { ...shared, locks, lanes: VERIFY_LANES }
  const forBackup = {
    ...shared,
    holds,
    create: (target: string) => NewFile.create(nodeFiles, target),
  }
  const forRestore = {
    ...local,
    ...{ disk, localNames, holds },
    hidden: (names: readonly RepositoryName[]) => shadowedNames(live.config, names),
    denied: async (name: RepositoryName) => {
      const glob = reservingGlob(name, live.config.push)
      return glob === undefined ? hiddenUpstream(parts, name) : `push.deny (${glob}) reserves ${name}`
    },
    open: (file: string) => OutsideFile.open(nodeFiles, file),
  }
  return {
    gc: ({ dryRun }, signal) => collector.run({ dryRun, signal }),
    async *evict({ dryRun, to }, signal) {
      yield* eviction.diskBudget.evict({ dryRun, to: to === undefined ? undefined : shareOf(to) }, signal)
    },
    verify: (args, signal) => verify(forVerify, args, signal),
    backup: (args, signal) => backup(forBackup, args, signal),
    restore: (args, signal) => restore(forRestore, args, signal),
  }
}

function createExplainer(parts: OperationParts): Explainer {
  const { live, storage, registry, mirror, eviction, serving, now } = parts
  const { store, index: metadata, holds } = storage
  const { accessTimes } = eviction
  return new Explainer({
    ...{ registry, store, metadata, fills: mirror.blobs, manifests: mirror.manifests, serving, now },
    latest: accessTimes.latest.bind(accessTimes),
    inUse: (digest) => holds.has(digest),
    settings: () => {
      const { pin, negativeTtl } = live.config.cache
      return { local: live.config.local, pin, negativeTtlMs: negativeTtl }
    },
  })
}

/** @returns a clause, if a local repository of that name would hide one mirrored from the default upstream */
async function hiddenUpstream(
  { registry, mirror }: OperationParts,
  name: RepositoryName,
): Promise<string | undefined> {
  const destination = await registry.route(name, undefined)
  if (destination?.rule !== 'default') return undefined
  const { origin } = destination.entry
  const served = await mirror.served.has({ origin, name: destination.name })
  return served
    ? `${name} was pulled from ${origin.upstream.key} through here, and would be hidden`
    : undefined
}

/** @throws OperatorError */
function shareOf(text: string): Share {
  const percent = parsePercent(text)
  const bytes = parseSize(text)
  if (percent !== undefined || bytes !== undefined) return { bytes, percent }
  throw new OperatorError(`${text} is no size: say 20GiB, or 50% of the file system`)
}
