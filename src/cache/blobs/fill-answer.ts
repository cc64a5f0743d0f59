/**
 * The answer of a fill to a client: its head within the header budget, its bytes as they come, and a fill in memory
 * when the disk will not take them.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { OciError } from '../../oci/errors.ts'
import type { RepositoryIndex } from '../../storage/metadata/metadata.ts'
import type { BlobAnswer } from '../answers.ts'
import type { BlobAccess } from './blob-access.ts'
import type { CacheStatus } from '../cache-status.ts'
import type { Fill, FillContext } from './fill.ts'
import { Follower } from './follower.ts'
import { openMemoryFill } from './memory-fill.ts'
import type { MirrorRef } from '../origin.ts'
import { refusal, refusalOf } from '../resilience/client-errors.ts'
import { HEADER_BUDGET_IS_OVER, withTimeLimit } from '../time-limit.ts'

/** How long a client still waits that joins a fill silent for longer than the header budget. */
const LATE_MS: Milliseconds = 500

/** How long a download under another name may take to begin before this name is asked for. */
const OTHER_NAME_MS: Milliseconds = 1_000

/** The same as for a push that the disk does not take. */
const STORAGE_RETRY_SECONDS = 30

interface FillAnswersOptions {
  readonly access: BlobAccess
  readonly repositories: RepositoryIndex
  readonly headerBudgetMs: Milliseconds
  readonly context: FillContext
}

export class FillAnswer {
  readonly #options: FillAnswersOptions

  constructor(options: FillAnswersOptions) {
    this.#options = options
  }

  /** @throws OciError when upstream cannot; `undefined` when it says that there is none */
  async follow(
    fill: Fill,
    cache: CacheStatus,
    repository: MirrorRef,
    client: AbortSignal,
  ): Promise<BlobAnswer | undefined> {
    const { access, repositories } = this.#options
    const place = fill.follow()
    try {
      const began = await this.#begun(fill, client)
      // A diverted fill has no bytes to look at before they leave: upstream says whether it is a blob, and how large.
      const found =
        began === 'diverted' ? await access.ask(repository, fill.digest, client) : { size: fill.size }
      if (began === 'absent' || found === undefined) {
        place[Symbol.dispose]()
        return undefined
      }
      return this.#answer(fill, began === 'diverted' ? 'bypass' : cache, found.size, repository, place)
    } catch (error) {
      place[Symbol.dispose]()
      const denial = error instanceof OciError && error.code === 'DENIED' ? error.cause : undefined
      throw denial === undefined ? error : await refusalOf(denial, repository, repositories)
    }
  }

  /** True when it brings bytes, or soon will. An earlier failure concerns only the name that it was asked under. */
  async delivers(fill: Fill, size: Bytes | undefined, client: AbortSignal): Promise<boolean> {
    const soon = AbortSignal.timeout(OTHER_NAME_MS)
    try {
      const began = await fill.begun(AbortSignal.any([client, soon]))
      // Where the manifest of the other name gave the size, this repository's manifest may know better.
      return began !== 'absent' && (size === undefined || fill.size === undefined || size === fill.size)
    } catch {
      client.throwIfAborted()
      return false
    }
  }

  #answer(
    fill: Fill,
    cache: CacheStatus,
    size: Bytes | undefined,
    repository: MirrorRef,
    place: Disposable,
  ): BlobAnswer {
    const { digest } = fill
    const { context, headerBudgetMs } = this.#options
    return {
      digest,
      size,
      cache,
      get unverified() {
        return fill.phase.is !== 'verified'
      },
      open: async (range, signal) => {
        const follower = new Follower(fill, size, range, (place, leaves) =>
          openMemoryFill(
            context,
            { repository, digest, size, end: range?.end, place, headerBudgetMs },
            leaves,
          ),
        )
        try {
          await follower.ready(signal)
          return follower
        } catch (error) {
          await follower[Symbol.asyncDispose]()
          throw error
        }
      },
      [Symbol.asyncDispose]: () => {
        place[Symbol.dispose]()
        return Promise.resolve()
      },
    }
  }

  /** Waits within the header budget; a queued fill answers with its size and may take longer. */
  async #begun(fill: Fill, client: AbortSignal): Promise<'begun' | 'absent' | 'diverted'> {
    // One client has waited in vain: the next must not wait as long again, as dockerd asks a dozen times.
    const ms = Math.max(this.#options.headerBudgetMs - fill.silentMs, LATE_MS)
    return await withTimeLimit(
      fill.origin.upstream,
      ms,
      HEADER_BUDGET_IS_OVER,
      client,
      (signal) => fill.begun(signal),
      (late) => {
        // With contradicting sizes the answer begins without one, as verification would be too late.
        if ((fill.queued && fill.size !== undefined) || fill.contested) return 'begun'
        // Upstream has delivered; the disk is late.
        if (fill.isWriting) throw storageIsLate()
        fill.origin.state.failed(fill.name, late)
        throw refusal(late)
      },
    )
  }
}

function storageIsLate(): OciError {
  const message = 'the storage of this registry does not answer at the moment'
  return new OciError('UNAVAILABLE', undefined, { message, retryAfterSeconds: STORAGE_RETRY_SECONDS })
}
