/**
 * Verification of the storage: every file against its digest, the index against the files, manifests against both.
 *
 * Beside a running server it reads one file at a time, half of the time, and locks only what looks wrong, for as long
 * as it takes to look again.
 */
import type { Digest } from '../../oci/digest.ts'
import type { BlobAudit, KnownBlob } from '../metadata/audit-index.ts'
import type { BlobStore } from '../blobs/blob-store.ts'
import type { KeyedLocks } from '../locks/keyed-locks.ts'
import type { EpochMs, MetadataStore } from '../metadata/metadata.ts'
import type { Finding, Progress, VerifyEvent } from './findings.ts'
import { OperatorError } from '../../base/operator-error.ts'
import { pooled } from '../../base/pooled.ts'
import { rebuild } from './rebuild-index.ts'
import { verifyBlob, type VerifyTools } from './verify-blobs.ts'
import { verifyManifests, verifyTags } from './verify-names.ts'

interface VerifyOptions {
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  readonly now: () => EpochMs
  /** Files read at once when no server runs. */
  readonly lanes: number
  readonly serving: boolean
}

const PAGE = 200

/** Yields each finding as it is made, and holds no lock while the caller reads it. */
export async function* verify(
  options: VerifyOptions,
  { repair, rebuild: rebuilds = false }: { readonly repair: boolean; readonly rebuild?: boolean | undefined },
  signal: AbortSignal,
): AsyncGenerator<VerifyEvent, void, undefined> {
  const { serving, ...rest } = options
  if (rebuilds && serving) throw new OperatorError('a server uses the index: stop it, then verify --rebuild')
  if (rebuilds) for await (const finding of rebuild({ ...rest, signal })) yield { finding }
  yield* look({ ...rest, repair, resting: serving, signal }, serving ? 1 : options.lanes)
}

async function* look(tools: VerifyTools, lanes: number): AsyncGenerator<VerifyEvent, void, undefined> {
  const problems = await tools.metadata.audit.problems()
  for (const detail of problems) {
    yield { finding: { ...remark('database', 'metadata.sqlite', detail), wrong: true, remains: true } }
  }
  if (problems.length > 0) return
  const totals = await tools.metadata.audit.totals()
  const done = { blobs: 0, bytes: 0 }
  const progress = (): Progress => ({ ...done, totalBlobs: totals.blobs, totalBytes: totals.bytes })
  const bad = new Set<Digest>()

  const check = async ({ digest, known }: Named): Promise<Finding | undefined> => {
    const finding = await verifyBlob(tools, digest, known, (count) => void (done.bytes += count))
    done.blobs++
    if (finding?.wrong === true && finding.kind !== 'size') bad.add(digest)
    return finding
  }
  for (const items of [inIndex(tools), unknown(tools)]) {
    for await (const finding of pooled(items, lanes, check)) {
      yield finding === undefined ? { progress: progress() } : { finding }
    }
  }
  for await (const finding of verifyManifests(tools, bad)) yield { finding }
  for await (const finding of verifyTags(tools)) yield { finding }
  for await (const finding of remarks(tools)) yield { finding }
  yield { checked: { ...done } }
}

interface Named {
  readonly digest: Digest
  readonly known: KnownBlob | undefined
}

async function* inIndex({ metadata, signal }: VerifyTools): AsyncGenerator<Named, void, undefined> {
  for (let last: Digest | undefined; ;) {
    const page = await metadata.audit.digests({ last, limit: PAGE })
    for (const known of page) {
      signal.throwIfAborted()
      yield { digest: known.digest, known }
    }
    last = page.at(-1)?.digest
    if (page.length < PAGE) return
  }
}

async function* unknown({ metadata, store, signal }: VerifyTools): AsyncGenerator<Named, void, undefined> {
  for await (const { digest } of store.list()) {
    signal.throwIfAborted()
    if ((await metadata.audit.digest(digest)) === undefined) yield { digest, known: undefined }
  }
}

function remark(kind: Finding['kind'], subject: string, detail: string): Finding {
  const nothing = { wrong: false, origin: 'nobody', uses: [], moreUses: 0, remains: false } as const
  return { kind, subject, detail, ...nothing }
}

/** Findings that are no faults, but worth knowing. */
async function* remarks({ disk, store }: VerifyTools): AsyncGenerator<Finding, void, undefined> {
  for await (const path of disk.foreign())
    yield remark('foreign', path, 'it is no blob; nothing here uses it')
  const { uploads, downloads, others } = await disk.leftovers()
  const parts = [
    { what: 'uploads', ...uploads, detail: 'that their clients may continue' },
    { what: 'downloads', ...downloads, detail: 'that may be continued' },
    { what: 'other files', ...others, detail: 'that are not ours' },
  ]
  for (const { what, files, bytes, detail } of parts) {
    if (files > 0) yield remark('partial', `ingest: ${files} ${what}`, `${bytes} bytes ${detail}`)
  }
  for (const { digest, path, size } of await disk.quarantined()) {
    const healed = (await store.stat(digest)) !== undefined
    const state = healed ? 'the right ones are here again: it can be deleted' : 'the right ones are not here'
    yield remark('quarantine', path, `${size} bytes that are not ${digest}; ${state}`)
  }
}
