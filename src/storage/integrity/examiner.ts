/**
 * Check of one blob while the server runs, for the scrub and for a read that found the blob damaged or missing.
 *
 * A damaged blob is repaired as `verify --repair` does it, logged once, counted, and fetched again where an upstream
 * gave it.
 */
import type { Bytes } from '../../base/units.ts'
import type { Logger } from 'pino'
import type { Digest } from '../../oci/digest.ts'
import type { BlobAudit } from '../metadata/audit-index.ts'
import type { BlobStore } from '../blobs/blob-store.ts'
import type { KeyedLocks } from '../locks/keyed-locks.ts'
import type { EpochMs, MetadataStore } from '../metadata/metadata.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { usesOf, type Finding } from './findings.ts'
import type { Lost } from './repair-blob.ts'
import { verifyBlob } from './verify-blobs.ts'

/** Further suspects are dropped: the scrub checks them in the end. */
const MOST_SUSPECTS = 1000

/** So many blobs are in the details of the health endpoint, which only counts the rest. */
const MOST_TOLD = 10
const MOST_NAMES = 5
/** A layer of thousands of images takes long to ask about, and the health endpoint is read every few seconds. */
const NAMES_FOR_MS = 60_000

/** Damaged and missing blobs, for the health endpoint. */
export interface QuarantineHealth {
  readonly count: number
  /** Those that have been in quarantine for longest. */
  readonly blobs: readonly {
    readonly digest: Digest
    /** ISO 8601. */
    readonly since: string
    readonly state: 'damaged' | 'missing'
    /** Some of the images that cannot be pulled, or not whole: `team/app:1`, `team/app@sha256:…`. */
    readonly affects: readonly string[]
    readonly more: number
  }[]
}

interface ExaminerOptions {
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  /** Fetches what upstreams gave, behind all other work. Never rejects. */
  readonly refetch: (lost: Lost) => Promise<void>
  readonly metrics: Metrics
  readonly log: Logger
  readonly now: () => EpochMs
}

export class Examiner implements AsyncDisposable {
  readonly #options: ExaminerOptions
  readonly #ending = new AbortController()
  /** Suspects wait in the order in which they came. */
  readonly #suspects = new Set<Digest>()
  #looking: Promise<void> | undefined
  /** The images that the blobs in the details of the health endpoint affect. */
  #uses = new Map<Digest, Pick<Finding, 'uses' | 'moreUses'> & { readonly at: EpochMs }>()

  constructor(options: ExaminerOptions) {
    this.#options = options
  }

  /** Called by a read that found it damaged or missing. Returns at once; the check comes later. */
  suspect(digest: Digest): void {
    if (this.#suspects.size >= MOST_SUSPECTS || this.#ending.signal.aborted) return
    this.#suspects.add(digest)
    this.#looking ??= this.#lookAtSuspects()
  }

  /**
   * @param read is called after each piece; the next one waits for its promise
   * @throws the index's error when it cannot be read
   */
  async examine(
    digest: Digest,
    read: (count: Bytes) => void | Promise<void>,
    signal: AbortSignal,
  ): Promise<Finding | undefined> {
    const { metadata, refetch, now } = this.#options
    const before = await this.#isQuarantined(digest)
    let gone: Lost | undefined
    const lost = (it: Lost): void => void (gone = it)
    const tools = { ...this.#options, repair: true, resting: false, lost, signal }
    const known = await metadata.audit.digest(digest)
    const finding = await verifyBlob(tools, digest, known, read)
    if (finding === undefined && before && known?.size !== undefined) {
      // The operator has brought the file back while the server ran.
      const { size } = known
      await metadata.transaction((tx) => tx.recordBlob(digest, size, now()))
    }
    if (finding?.wrong !== true) return undefined
    // A known damaged blob is news only when there was something to put aside again.
    if (!before || finding.kind === 'corrupt') this.#tell(finding)
    if (gone !== undefined && isWorthFetching(gone)) await refetch(gone)
    return finding
  }

  async quarantine(): Promise<QuarantineHealth> {
    const { metadata, now } = this.#options
    const { count, first } = await metadata.scrub.quarantined(MOST_TOLD)
    const blobs: QuarantineHealth['blobs'][number][] = []
    const before = this.#uses
    this.#uses = new Map()
    for (const { digest, foundAt, path } of first) {
      const known = before.get(digest)
      const found =
        known !== undefined && now() - known.at < NAMES_FOR_MS
          ? known
          : { ...(await usesOf(metadata.audit, digest)), at: now() }
      this.#uses.set(digest, found)
      const { uses, moreUses } = found
      blobs.push({
        digest,
        since: new Date(foundAt).toISOString(),
        state: path === undefined ? 'missing' : 'damaged',
        affects: uses.slice(0, MOST_NAMES),
        more: moreUses + Math.max(0, uses.length - MOST_NAMES),
      })
    }
    return { count, blobs }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort(new Error('shutting down'))
    await this.#looking
  }

  async #lookAtSuspects(): Promise<void> {
    const { store, log } = this.#options
    const { signal } = this.#ending
    try {
      for (const digest of this.#suspects) {
        try {
          // Clients ask again and again for a blob that is known to be gone.
          const known = (await store.stat(digest)) === undefined && (await this.#isQuarantined(digest))
          if (!known) await this.examine(digest, () => undefined, signal)
        } catch (err) {
          if (signal.aborted) return
          log.error({ err, digest }, 'a blob that seems to be damaged cannot be looked at')
        }
        this.#suspects.delete(digest)
      }
    } finally {
      this.#looking = undefined
    }
  }

  async #isQuarantined(digest: Digest): Promise<boolean> {
    return (await this.#options.metadata.inventory.quarantined([digest])).has(digest)
  }

  #tell({ kind, origin, subject, detail, uses, moreUses, repair, remains }: Finding): void {
    const { metrics, log } = this.#options
    const pushed = origin === 'pushed' || origin === 'both'
    const facts = { digest: subject, kind, origin, detail, uses: uses.slice(0, MOST_NAMES), moreUses, repair }
    if (kind === 'size') {
      log.warn(facts, 'the index had the size of a blob wrong')
      return
    }
    if (kind === 'missing' && !pushed) {
      // An eviction may have deleted the file when the index took no write.
      log.info(facts, 'a cached blob was gone, and is forgotten')
      return
    }
    metrics.scrubCorrupt.inc({ kind: pushed ? 'pushed' : 'mirrored' })
    if (pushed) log.error(facts, 'pushed content is damaged: push it again')
    else if (remains) log.error(facts, 'a cached blob cannot be read')
    else log.warn(facts, 'a cached blob was damaged, and dropped')
  }
}

/**
 * An absent file may have been evicted. A pushed one is worth fetching: no client gets it until an upstream, or a
 * push, brings it.
 */
function isWorthFetching({ fault, pushed }: Lost): boolean {
  return pushed || fault !== 'missing'
}
