/**
 * One attempt to get a blob: its download, the growing file, and the verdict on it.
 *
 * After a mismatch a second attempt runs beside the first: followers stay until it is known where the two differ.
 */
import type { Bytes } from '../../base/units.ts'
import type { VerifiedFile } from '../../storage/ingest/ingest.ts'
import type { DiskReservation } from './disk-reservation.ts'
import type { Download } from './download.ts'
import { firstDifference } from './first-difference.ts'

/** A smaller partial file is not worth its place on the disk. */
const WORTH_KEEPING: Bytes = 1024 * 1024

export class Attempt {
  readonly download: Download
  readonly reservation: DiskReservation
  #differsAt: Bytes | undefined
  #wrong = false

  constructor(download: Download, reservation: DiskReservation) {
    this.download = download
    this.reservation = reservation
  }

  /** First byte in which a later, verified attempt differs from this one; undefined while unknown. */
  get differsAt(): Bytes | undefined {
    return this.#differsAt
  }

  /** The digest did not match: no further byte of it is given out. */
  get wrong(): boolean {
    return this.#wrong
  }

  /** @throws UpstreamError when upstream cannot; the system's error when the disk cannot; the signal's reason */
  async run(signal: AbortSignal): Promise<VerifiedFile | 'absent' | 'wrong'> {
    const { ingest, refused } = this.reservation
    if ((await this.download.run(AbortSignal.any([signal, refused]))) === 'absent') {
      await this.reservation.discard()
      return 'absent'
    }
    const file = await ingest.verify(ingest.prefix, signal)
    this.#wrong = file === undefined
    return file ?? 'wrong'
  }

  /** For a next attempt that gives out nothing before its first bytes equal what was given out of this one. */
  isRepeated(): void {
    this.#differsAt = Number.POSITIVE_INFINITY
  }

  async compareWith(verified: Attempt): Promise<void> {
    if (this.#differsAt !== undefined) return
    const { ingest } = verified.download
    this.#differsAt = await firstDifference(this.download.ingest, ingest, ingest.prefix)
  }

  /** Upstream has failed: keeps the partial file for a later attempt, where that is worthwhile. */
  async putAside(): Promise<void> {
    const { ingest, tooLong } = this.download
    await this.reservation.putAside(ingest.prefix >= WORTH_KEEPING && !tooLong)
  }
}
