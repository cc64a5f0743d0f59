/**
 * Verification of blobs: each file against its digest and the index.
 *
 * A file that looks wrong is checked again under the digest's lock: a push, a fill or a collection may just have
 * changed it. The repair is in `repair-blob.ts`.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { BlobAudit, Checked, KnownBlob } from '../metadata/audit-index.ts'
import type { BlobStore } from '../blobs/blob-store.ts'
import { lockOfBlob, type KeyedLocks } from '../locks/keyed-locks.ts'
import type { EpochMs, MetadataStore } from '../metadata/metadata.ts'
import { originOf, usesOf, type Finding, type Outcome } from './findings.ts'
import { mendBlob, type Fault, type Lost } from './repair-blob.ts'

export interface VerifyTools {
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  readonly now: () => EpochMs
  readonly repair: boolean
  /** Reads half of the time only, which leaves the disk to a server that runs. */
  readonly resting: boolean
  /** Takes lost bytes that an upstream gave. Called under the digest's lock, so it must not wait. */
  readonly lost?: (lost: Lost) => void
  readonly signal: AbortSignal
}

/** @param read is called after each piece; the next one waits for its promise */
export async function verifyBlob(
  tools: VerifyTools,
  digest: Digest,
  known: KnownBlob | undefined,
  read: (count: Bytes) => void | Promise<void>,
): Promise<Finding | undefined> {
  const { disk, locks, signal, resting, repair } = tools
  const index = tools.metadata.audit
  let seen = await disk.check(digest, { signal, resting, read })
  if (faultOf(known, seen) === undefined) return undefined
  // A repair reads the file twice before it removes it; here it holds no lock, so clients still get at the digest.
  if (seen.is === 'corrupt' && repair) seen = await disk.check(digest, { signal, resting, read })

  using _held = await locks.exclusive(lockOfBlob(digest), signal)
  const still = await index.digest(digest)
  const again = await lookAgain(tools, digest, seen)
  const fault = faultOf(still, again)
  if (fault === undefined) return undefined
  const uses = await usesOf(index, digest)
  const outcome: Outcome = repair
    ? await mendBlob(tools, fault, digest, still, again).catch((error: unknown) => failed(error, signal))
    : { remains: fault !== 'orphan' }
  return {
    kind: fault,
    wrong: fault !== 'orphan',
    origin: originOf(still),
    subject: digest,
    detail: describe(fault, still, again),
    ...uses,
    ...outcome,
  }
}

/** Reads the file again only if it has changed since. */
async function lookAgain(
  { disk, repair, signal }: VerifyTools,
  digest: Digest,
  seen: Checked,
): Promise<Checked> {
  if (seen.is === 'corrupt' && !repair) return seen
  if ('file' in seen && (await disk.identify(digest)) === seen.file) return seen
  return disk.check(digest, { signal, resting: false })
}

/** A failed repair is reported; an aborted one is not a finding. */
export function failed(error: unknown, signal: AbortSignal): Outcome {
  signal.throwIfAborted()
  return { repair: `not repaired: ${error instanceof Error ? error.message : String(error)}`, remains: true }
}

function faultOf(known: KnownBlob | undefined, checked: Checked): Fault | undefined {
  switch (checked.is) {
    case 'absent':
      return known === undefined ? undefined : 'missing'
    case 'no file':
    case 'lost':
    case 'unreadable':
      return 'unreadable'
    case 'corrupt':
      return 'corrupt'
    case 'sound':
      if (known === undefined) return 'orphan'
      return known.size === checked.size ? undefined : 'size'
  }
}

function describe(fault: Fault, known: KnownBlob | undefined, checked: Checked): string {
  const found = 'size' in checked ? checked.size : 0
  const expected = known?.size
  switch (fault) {
    case 'missing':
      return 'the index names it, and there is no file'
    case 'unreadable':
      return 'why' in checked ? checked.why : 'it cannot be read'
    case 'corrupt':
      return expected === undefined || expected === found
        ? `its ${found} bytes are not those of its name`
        : `it has ${found} bytes instead of ${expected}, and not those of its name`
    case 'size':
      return expected === undefined
        ? `the index does not know its size of ${found} bytes`
        : `the index says ${expected} bytes; it has ${found}, the right ones`
    case 'orphan':
      return `${found} bytes that the index has never heard of; a collection removes them after push.gcGrace, unless they are older than it`
  }
}
