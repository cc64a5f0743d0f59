/**
 * One file after the other against its name and the index, and what is done about those that are wrong.
 *
 * What was only mirrored is dropped, so that it is fetched again. What was pushed, and what nobody knows, is never
 * deleted: it is put aside, and stays reported. What looks wrong is looked at again under the digest's lock: a
 * push, a fill or a collection may just have been at it.
 */
import type { Digest } from '../oci/digest.ts'
import type { AuditIndex, BlobAudit, Checked, KnownBlob } from '../store/audit.ts'
import type { BlobStore, Bytes } from '../store/blob-store.ts'
import type { Locks } from '../store/locks.ts'
import { LOCAL, type EpochMs, type MetadataStore } from '../store/metadata.ts'
import { originOf, usesOf, type Finding, type Outcome } from './findings.ts'

export interface VerifyTools {
  readonly index: AuditIndex
  readonly disk: BlobAudit
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly locks: Locks
  readonly now: () => EpochMs
  readonly repair: boolean
  /** Half of the time only, for the sake of a server that is serving. */
  readonly resting: boolean
  readonly signal: AbortSignal
}

type Fault = 'corrupt' | 'missing' | 'unreadable' | 'size' | 'orphan'

/** @param read told of every piece that was read */
export async function verifyBlob(
  tools: VerifyTools,
  digest: Digest,
  known: KnownBlob | undefined,
  read: (count: Bytes) => void,
): Promise<Finding | undefined> {
  const { disk, index, locks, signal, resting, repair } = tools
  const first = await disk.check(digest, { signal, resting, read })
  if (faultOf(known, first) === undefined) return undefined

  using _held = await locks.exclusive(`blob ${digest}`, signal)
  const still = await index.digest(digest)
  // Whoever is about to take a file away makes sure that it is this one.
  const again =
    first.is === 'corrupt' && !repair ? first : await disk.check(digest, { signal, resting: false })
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

/** A repair that did not work is told; that it was broken off is not a finding. */
export function failed(error: unknown, signal: AbortSignal): Outcome {
  signal.throwIfAborted()
  return { repair: `not repaired: ${error instanceof Error ? error.message : String(error)}`, remains: true }
}

function faultOf(known: KnownBlob | undefined, checked: Checked): Fault | undefined {
  switch (checked.is) {
    case 'absent':
      return known === undefined ? undefined : 'missing'
    case 'unreadable':
    case 'corrupt':
      return checked.is
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
      return checked.is === 'unreadable' ? checked.why : 'it cannot be read'
    case 'corrupt':
      return expected === undefined || expected === found
        ? `its ${found} bytes are not those of its name`
        : `it has ${found} bytes instead of ${expected}, and not those of its name`
    case 'size':
      return expected === undefined
        ? `the index does not know its size of ${found} bytes`
        : `the index says ${expected} bytes; it has ${found}, the right ones`
    case 'orphan':
      return `${found} bytes that the index has never heard of; a collection removes them`
  }
}

async function mendBlob(
  tools: VerifyTools,
  fault: Fault,
  digest: Digest,
  known: KnownBlob | undefined,
  checked: Checked,
): Promise<Outcome> {
  const { disk, store, metadata, now } = tools
  const mirroredOnly = known?.mirrored === true && !known.pushed
  switch (fault) {
    case 'orphan':
      return { remains: false }
    case 'unreadable':
      return { remains: true }
    case 'size': {
      const { size } = checked as Extract<Checked, { size: Bytes }>
      await metadata.transaction((tx) => tx.recordBlob(digest, size, now()))
      return { repair: 'the index was set right', remains: false }
    }
    case 'missing':
      if (known?.pushed === true) return { remains: true }
      await forget(tools, digest)
      return { repair: dropped(mirroredOnly), remains: false }
    case 'corrupt': {
      if (mirroredOnly) {
        await store.delete(digest)
        await forget(tools, digest)
        return { repair: dropped(true), remains: false }
      }
      const where = await disk.quarantine(digest)
      if (known?.pushed !== true) await forget(tools, digest)
      return { repair: `put aside as ${String(where)}`, remains: known?.pushed === true }
    }
  }
}

function dropped(mirrored: boolean): string {
  return mirrored ? 'dropped; the next pull fetches it again' : 'dropped from the index'
}

/** Whatever the index says of bytes that no local repository holds. */
async function forget({ index, metadata, now }: VerifyTools, digest: Digest): Promise<void> {
  const held = (await index.naming(digest)).filter(
    ({ manifest, repository }) => manifest === digest && repository.registry !== LOCAL,
  )
  await metadata.transaction((tx) => {
    for (const { repository } of held) tx.deleteManifest(repository, digest, now())
    tx.forgetBlob(digest)
  })
}
