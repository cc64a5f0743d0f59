/**
 * Room for what is mirrored, as those see it who need some.
 *
 * Whoever keeps the budget stands behind it: what it frees is what was pulled longest ago, never what was pushed,
 * pinned, or is in use.
 */
import type { Bytes } from '../../base/units.ts'
import type { IngestIdentity } from '../../storage/ingest/ingest.ts'

export interface DiskSpace {
  /**
   * Asked before a download opens its file; makes room for it where it can. Does not throw.
   *
   * @param size undefined: nobody knows yet
   */
  reserve(what: IngestIdentity, size: Bytes | undefined): Promise<SpaceReservation>
  /**
   * The disk is full: frees so much, or what there is.
   *
   * @returns false when nothing is left that may go
   */
  reclaim(bytes: Bytes): Promise<boolean>
  /** What is mirrored became more: whoever keeps the budget looks whether it is too much. Never waits. */
  changed(): void
}

/** What was admitted is reckoned with until this is disposed: when its bytes are in the index, or have gone. */
export interface SpaceReservation extends Disposable {
  /**
   * - `keep`: it may stay when it is whole
   * - `transient`: it is larger than all of the budget. It may use a file for as long as somebody follows it.
   * - `none`: the disk has not got that much to give: everybody gets a stream of their own
   */
  readonly as: 'keep' | 'transient' | 'none'
}

/** As the system would say it, only before it is too late. */
export function noRoom(): Error {
  return Object.assign(new Error('the disk has no room for it'), { code: 'ENOSPC' })
}
