/**
 * One try to have a blob: its download, the file that grows, and the verdict on it.
 *
 * After a mismatch a second attempt is made beside the first: followers go on reading what they have begun with
 * until it is known where the two differ.
 */
import type { Bytes } from '../../base/units.ts'
import type { VerifiedFile } from '../../storage/ingest/ingest.ts'
import type { DiskReservation } from './disk-reservation.ts'
import type { Download } from './download.ts'
import { firstDifference } from './first-difference.ts'

/** Below this a partial is not worth a place on the disk. */
const WORTH_KEEPING: Bytes = 1024 * 1024

export class Attempt {
  readonly download: Download
  readonly berth: DiskReservation
  #differsAt: Bytes | undefined
  #wrong = false

  constructor(download: Download, berth: DiskReservation) {
    this.download = download
    this.berth = berth
  }

  /** First byte in which a later, verified attempt differs from this one; undefined while nobody knows. */
  get differsAt(): Bytes | undefined {
    return this.#differsAt
  }

  /** Its digest is another: not a byte more of it is given out. */
  get wrong(): boolean {
    return this.#wrong
  }

  /** @throws UpstreamError when upstream cannot; the system's error when the disk cannot; the signal's reason */
  async run(signal: AbortSignal): Promise<VerifiedFile | 'absent' | 'wrong'> {
    const { ingest, refused } = this.berth
    if ((await this.download.run(AbortSignal.any([signal, refused]))) === 'absent') {
      await this.berth.discard()
      return 'absent'
    }
    const file = await ingest.verify(ingest.prefix, signal)
    this.#wrong = file === undefined
    return file ?? 'wrong'
  }

  /** The next attempt gives out nothing before it has shown that it begins with what was given out of this one. */
  isRepeated(): void {
    this.#differsAt = Number.POSITIVE_INFINITY
  }

  async compareWith(verified: Attempt): Promise<void> {
    if (this.#differsAt !== undefined) return
    const { ingest } = verified.download
    this.#differsAt = await firstDifference(this.download.ingest, ingest, ingest.prefix)
  }

  /** Upstream has let us down: what is here may be gone on with another time. */
  async putAside(): Promise<void> {
    const { ingest, tooLong } = this.download
    await this.berth.putAside(ingest.prefix >= WORTH_KEEPING && !tooLong)
  }
}
