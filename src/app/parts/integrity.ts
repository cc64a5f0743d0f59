/** Integrity of stored bytes in a running server: the check of a blob that a read found wrong, and the scrub. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { MirrorRef } from '../../cache/origin.ts'
import type { LiveConfig } from '../../config/live.ts'
import type { Digest } from '../../oci/digest.ts'
import type { MirrorContext } from '../../registry/mirror-repository.ts'
import type { UpstreamEntry } from '../../registry/registry.ts'
import type { Storage } from './storage.ts'
import type { RepositoryKey } from '../../storage/metadata/metadata.ts'
import { DiskBlobAudit } from '../../storage/blobs/disk-audit.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { Examiner } from '../../storage/integrity/examiner.ts'
import type { Lost } from '../../storage/integrity/repair-blob.ts'
import { Scrub } from '../../storage/integrity/scrub.ts'

/** The most repositories for which one manifest is fetched again at once. */
const MOST_REPOSITORIES = 10
const REFETCH_MS = 60_000

interface IntegrityOptions {
  readonly live: LiveConfig
  readonly storage: Storage
  readonly refetch: (lost: Lost) => Promise<void>
  /** Whether a client is being served, or a blob fetched. */
  readonly busy: () => boolean
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => number
}

interface IntegrityParts {
  readonly suspect: (digest: Digest) => void
  readonly quarantine: () => ReturnType<Examiner['quarantine']>
  /** The scrub runs until `closing` ends it. */
  readonly startScrub: () => void
}

/** A command that runs alone checks nothing in the background. */
export const NO_INTEGRITY: IntegrityParts = {
  suspect: () => undefined,
  quarantine: () => Promise.resolve({ count: 0, blobs: [] }),
  startScrub: () => undefined,
}

/** The parts are closed by `closing`. */
export function createIntegrity(options: IntegrityOptions, closing: AsyncDisposableStack): IntegrityParts {
  const { live, storage, refetch, busy, metrics, log, now } = options
  const { root, files, hashers, store, locks, index: metadata } = storage
  const disk = new DiskBlobAudit({ root, files, hashers })
  const examiner = closing.use(
    new Examiner({ ...{ disk, store, metadata, locks, refetch, metrics, log, now } }),
  )
  const beforeScrape = async (): Promise<void> => {
    try {
      const oldest = await metadata.scrub.oldestCheck()
      metrics.scrubOldestCheck.set(oldest === undefined ? 0 : Math.max(0, now() - oldest) / 1000)
      metrics.quarantinedBlobs.set((await metadata.scrub.quarantined(0)).count)
    } catch (err) {
      // The scrape still gets the other metrics.
      log.debug({ err }, 'the index does not tell what was checked')
    }
  }
  metrics.beforeScrape.add(beforeScrape)
  closing.defer(() => void metrics.beforeScrape.delete(beforeScrape))
  return {
    suspect: (digest) => examiner.suspect(digest),
    quarantine: () => examiner.quarantine(),
    startScrub: () => {
      const ending = new AbortController()
      const scrub = new Scrub({
        ...{ metadata, examiner, busy, metrics, log, now },
        intervalMs: () => live.config.cache.scrubInterval,
        rest: async (ms, signal) => sleep(ms, undefined, { signal, ref: false }),
      })
      // The scrub ends only when it is aborted.
      const ended = scrub.run(ending.signal).catch(() => undefined)
      closing.defer(async () => {
        ending.abort(new Error('shutting down'))
        await ended
      })
    },
  }
}

interface RefetchParts {
  readonly entries: readonly UpstreamEntry[]
  readonly mirror: Pick<MirrorContext, 'manifests' | 'blobs'>
  readonly index: Pick<Storage['index'], 'manifests'>
  readonly log: Logger
}

/**
 * Fetches a lost blob or manifest again, at the lowest priority: after any client's request, not from an upstream
 * that is offline or failing, and not from the pull quota's reserve. The next pull fetches what is still missing.
 */
export async function refetch({ digest, manifests }: Lost, parts: RefetchParts): Promise<void> {
  const { entries, mirror, index, log } = parts
  const brought = new Set<string>()
  let asked = 0
  for (const { repository, manifest, tags } of manifests) {
    const mirrored = askable(entries, repository)
    if (mirrored === undefined) continue
    if (asked++ === MOST_REPOSITORIES) return
    try {
      const named = manifest === digest ? undefined : await index.manifests.descriptor(repository, digest)
      if (named !== undefined && named.role !== 'manifest') {
        // A blob has the same bytes under each of its names: one fetch is enough.
        if (!brought.has(repository.registry)) await mirror.blobs.ahead(mirrored, named)
        brought.add(repository.registry)
      } else if (mirrored.origin.upstream.quotaBelow(mirrored.origin.reserve) === undefined) {
        const reference = manifest === digest ? (tags[0] ?? digest) : digest
        await mirror.manifests.get(mirrored, reference, AbortSignal.timeout(REFETCH_MS))
      }
    } catch (err) {
      log.debug({ err, digest }, 'what was damaged is not fetched again yet')
    }
  }
}

function askable(
  entries: readonly UpstreamEntry[],
  { registry, name }: RepositoryKey,
): MirrorRef | undefined {
  const origin = entries.find((it) => it.origin.upstream.key === registry)?.origin
  if (origin === undefined || origin.upstream.status().offline) return undefined
  return origin.state.failing(name) === undefined ? { origin, name } : undefined
}
