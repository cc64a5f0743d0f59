/**
 * Disk space of the mirror, as the downloads that need it see it.
 *
 * The disk budget implements it: it frees what was pulled longest ago, never what was pushed, pinned, or is in use.
 */
import type { Bytes } from '../../base/units.ts'
import type { IngestIdentity } from '../../storage/ingest/ingest.ts'

export interface DiskSpace {
  /**
   * Called before a download opens its file; evicts for it where it can. Never rejects.
   *
   * @param size undefined while it is unknown
   */
  reserve(what: IngestIdentity, size: Bytes | undefined): Promise<SpaceReservation>
  /**
   * Called when the disk is full: frees so much, or what there is.
   *
   * @returns false when nothing is left that may go
   */
  reclaim(bytes: Bytes): Promise<boolean>
  /** The mirror has grown: the budget checks its limits soon. Never waits. */
  changed(): void
}

/** The admitted bytes count until it is disposed, which is when they are in the index, or have gone. */
export interface SpaceReservation extends Disposable {
  /**
   * - `keep`: the blob may stay when it is whole
   * - `transient`: it is larger than the whole budget, and may use a file for as long as a client follows it
   * - `none`: the disk cannot give so much, and every client gets a stream of its own
   */
  readonly as: 'keep' | 'transient' | 'none'
}

/** The error that the system would give, only before it is too late. */
export function noRoom(): Error {
  return Object.assign(new Error('the disk has no room for it'), { code: 'ENOSPC' })
}
