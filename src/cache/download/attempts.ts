/**
 * The one or two attempts of a fill to get a blob with the right digest.
 *
 * Wrong bytes are fetched once more, from byte 0 and into a file of their own beside the first, before any client
 * hears of it: followers have read some of the first.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { VerifiedFile } from '../../storage/ingest/ingest.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import type { TransferPriority } from '../../upstream/limits/transfer-slots.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import { Attempt } from './attempt.ts'
import { DiskReservation, type ReservationContext } from './disk-reservation.ts'
import { Download } from './download.ts'
import type { Origin } from '../origin.ts'
import { corruptRefusal } from '../resilience/client-errors.ts'
import { TransferSlot } from './transfer-slot.ts'

export interface AttemptsContext extends ReservationContext {
  readonly metrics: Metrics
  /** The most that is taken of a blob of unknown size. Default: that of a {@link Download}. */
  readonly maxUntoldSize?: Bytes | undefined
  /** The one client of a fill in memory, and whether it has a response's head; undefined: the bytes go to disk. */
  readonly client?: { readonly promised: boolean } | undefined
}

interface AttemptsOptions {
  readonly origin: Origin
  readonly name: RepositoryName
  readonly digest: Digest
  /** Given by a manifest's descriptor. */
  readonly size: Bytes | undefined
  readonly priority: () => TransferPriority
  /** Followers read the bytes of this attempt from now on. */
  readonly onBegin: (attempt: Attempt) => void
  readonly onChange: () => void
  /** Called when it may use a file only for as long as a client follows it. */
  readonly onTransient: () => void
  /** Called when the disk would not take it; undefined: the disk was not even asked. */
  readonly onDiverted: (error: unknown) => void
}

type Outcome =
  | { readonly is: 'absent' }
  | { readonly is: 'verified'; readonly attempt: Attempt; readonly file: VerifiedFile }
  | { readonly is: 'diverted' }

export class Attempts {
  readonly #context: AttemptsContext
  readonly #options: AttemptsOptions

  constructor(context: AttemptsContext, options: AttemptsOptions) {
    this.#context = context
    this.#options = options
  }

  /** @throws UpstreamError, the signal's reason; OciError when the bytes were wrong both times */
  async run(signal: AbortSignal): Promise<Outcome> {
    const { origin, digest } = this.#options
    const first = await this.#try(undefined, signal)
    if (first.is !== 'wrong') return first
    try {
      const second = await this.#try(first.attempt, signal)
      // Wrong in segments and right in one request: this upstream does not serve ranges as it should.
      if (second.is === 'verified' && first.attempt.download.inPieces) origin.segments?.refused()
      if (second.is !== 'wrong') return second
      await second.attempt.reservation.discard()
    } finally {
      await first.attempt.reservation.discard()
    }
    origin.state.markCorrupt(digest)
    throw corruptRefusal(origin.upstream.key, origin.state.corruptFor(digest) ?? 0)
  }

  async #try(
    earlier: Attempt | undefined,
    signal: AbortSignal,
  ): Promise<Outcome | { is: 'wrong'; attempt: Attempt }> {
    const { origin, digest, priority, onDiverted } = this.#options
    const { client, health } = this.#context
    if (client === undefined && health.backingOff) {
      onDiverted(undefined)
      return { is: 'diverted' }
    }
    // While upstream is paused only holders of slots wait for it, and clients that already have a head or bytes.
    const isPromised = earlier !== undefined || client?.promised === true
    const refused = isPromised ? undefined : origin.upstream.paused?.()
    if (refused !== undefined) throw refused
    // The file is opened after the slot is taken: a queued download costs nothing but memory.
    using turn = await TransferSlot.take(origin.slots, { priority, owner: this }, signal)
    let attempt: Attempt | undefined
    try {
      attempt = await this.#begin(earlier, turn)
      const file = await attempt.run(signal)
      if (file === 'absent') return { is: 'absent' }
      if (file === 'wrong') {
        this.#reportWrong(attempt, earlier !== undefined)
        return { is: 'wrong', attempt }
      }
      await earlier?.compareWith(attempt)
      origin.state.forgetCorrupt(digest)
      return { is: 'verified', attempt, file }
    } catch (error) {
      if (client !== undefined || error instanceof UpstreamError || signal.aborted) {
        await attempt?.putAside()
        throw error
      }
      onDiverted(error)
      await attempt?.reservation.discard()
      return { is: 'diverted' }
    }
  }

  /** Opens a file, and prepares a download into it. @throws when the disk would not take it */
  async #begin(earlier: Attempt | undefined, turn: TransferSlot): Promise<Attempt> {
    const { metrics, log, maxUntoldSize, client } = this.#context
    const { origin, name, digest, size, priority, onBegin, onChange, onTransient } = this.#options
    const identity = { source: origin.upstream.key, digest }
    const again = earlier !== undefined
    const reservation = await DiskReservation.take(this.#context, {
      identity,
      size,
      fresh: again,
      onTransient,
    })
    const { ingest } = reservation
    const download = new Download({
      ...{ origin, name, digest, ingest, size, turn, priority, maxUntoldSize, client, metrics, log },
      ...{ owner: this, whole: again || client !== undefined },
      onChange: () => {
        void reservation.reckon(download.size)
        onChange()
      },
    })
    const attempt = new Attempt(download, reservation)
    if (client !== undefined) earlier?.isRepeated()
    onBegin(attempt)
    return attempt
  }

  #reportWrong({ download }: Attempt, again: boolean): void {
    const { metrics, log } = this.#context
    const { origin, digest } = this.#options
    metrics.integrityFailures.inc({ upstream: origin.upstream.key })
    log.warn(
      { upstream: origin.upstream.key, digest, size: download.ingest.prefix, again },
      'the bytes from upstream are not what was asked for',
    )
    origin.upstream.avoidSourcesOf?.(digest)
  }
}
