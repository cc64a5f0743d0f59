/**
 * Partial file: the growing file behind every ingest, of a download or an upload.
 *
 * Bytes that the file has are never written again, so the hashed bytes are the bytes in the file. Once `verify` has
 * begun nothing is written any more, so they are also the adopted bytes.
 */
import type { Bytes } from '../../base/units.ts'
import { algorithmOf, hexOf, type Digest } from '../../oci/digest.ts'
import type { ExtentMap } from './extents.ts'
import { sliceChunks, type OpenFile } from '../files/open-file.ts'
import { PartialHash } from './partial-hash.ts'
import { hashedBy, isUpload, type PartialIdentity } from './partial-identity.ts'
import { Sidecar } from './sidecar.ts'
import { isHangingDisk } from '../storage-error.ts'
import type { Files } from '../files/files.ts'
import type { Hashers } from './hasher.ts'
import type { Ingest, IngestIdentity, UploadIdentity, UploadIngest, VerifiedFile } from './ingest.ts'

const MiB = 1024 * 1024

export interface PartialLimits {
  /** A sidecar is written after so many new bytes. */
  readonly saveEvery: Bytes
  /** Backpressure: a writer that is this far ahead of the running sync waits for it. */
  readonly maxUnsynced: Bytes
  /** Backpressure: a writer that is this far ahead of the hasher waits for it. */
  readonly maxUnhashed: Bytes
}

export const DEFAULT_LIMITS: PartialLimits = {
  saveEvery: 64 * MiB,
  maxUnsynced: 256 * MiB,
  maxUnhashed: 256 * MiB,
}

export interface PartialFileOptions<Identity extends PartialIdentity> {
  readonly files: Files
  readonly hashers: Hashers
  readonly identity: Identity
  /** The machine's boot id. */
  readonly boot: string | undefined
  /** The path without `.part` and `.json`. */
  readonly stem: string
  readonly file: OpenFile
  readonly inherited: ExtentMap
  /** How many of the inherited bytes were never synced. */
  readonly unsynced: Bytes
  readonly limits: PartialLimits
  /** Called at the end: with the extents that were kept, or an upload's digest if the index may not know its blob. */
  readonly ended: (left: ExtentMap | Digest | undefined) => Promise<void>
  /** Removes a file that is no longer needed. Never rejects. */
  readonly remove: (file: string) => Promise<void>
  /** Takes failures that cost only the chance to resume. */
  readonly report: (error: unknown) => void
}

export class PartialFile<Identity extends PartialIdentity = PartialIdentity> {
  readonly identity: Identity
  readonly inherited: Bytes
  readonly path: string
  readonly #options: PartialFileOptions<Identity>
  readonly #file: OpenFile
  readonly #sidecar: Sidecar
  /** Bytes that are written and readable. */
  readonly #extents: ExtentMap
  /** Bytes that are written or just being written. */
  readonly #claimed: ExtentMap
  #hash: PartialHash
  readonly #writing = new Set<Promise<void>>()
  #state: 'open' | 'sealed' | 'ended' = 'open'
  #ending: Promise<void> | undefined
  /** The first failure of a write or a sync; the ingest takes no more bytes after it. */
  #error: Error | undefined

  /** Bytes written since the last sync began. */
  #unsynced: Bytes
  #syncing: Promise<void> | undefined
  /** Once a sync has failed the kernel may have dropped the pages: nothing later can vouch for them. */
  #syncFailed = false
  /** Bytes written since the last sidecar was begun. */
  #unsaved: Bytes
  #saving: Promise<void> | undefined
  #disowned = false
  #stranded = false

  constructor(options: PartialFileOptions<Identity>) {
    const { identity, stem, file, inherited, unsynced, hashers, files } = options
    this.#options = options
    this.identity = identity
    this.path = `${stem}.part`
    this.#file = file
    this.#sidecar = new Sidecar(files, stem, options)
    this.#extents = inherited
    this.#claimed = inherited.copy()
    this.inherited = inherited.bytes
    this.#unsynced = unsynced
    this.#unsaved = unsynced
    this.#hash = new PartialHash(hashers, hashedBy(identity), file, inherited.prefix)
  }

  get prefix(): Bytes {
    return this.#extents.prefix
  }

  get bytes(): Bytes {
    return this.#extents.bytes
  }

  get descriptor(): number {
    return this.#file.descriptor
  }

  get disowned(): boolean {
    return this.#disowned
  }

  get stranded(): boolean {
    return this.#stranded
  }

  readableTo(position: Bytes): Bytes {
    return this.#extents.readableTo(position)
  }

  nextExtent(position: Bytes): Bytes {
    return this.#extents.nextStart(position)
  }

  read(buffer: Buffer, position: Bytes): Promise<Bytes> {
    const length = Math.min(buffer.length, this.readableTo(position) - position)
    // Beyond an extent the file may have holes, which would read as zeros.
    if (length <= 0) return Promise.resolve(0)
    return this.#file.read(buffer.subarray(0, length), position)
  }

  retain(): Disposable {
    return this.#file.retain()
  }

  async write(chunks: readonly Buffer[], position: Bytes): Promise<void> {
    this.#assertWritable()
    if (this.#tooFarAhead()) await this.#keepPace()
    const end = chunks.reduce((sum, chunk) => sum + chunk.length, position)
    const gaps = this.#claimed.gaps(position, end)
    this.#claimed.add(position, end)
    const work = this.#fill(gaps, chunks, position)
    this.#writing.add(work)
    try {
      await work
    } catch (error) {
      this.#error ??= asError(error)
      throw error
    } finally {
      this.#writing.delete(work)
    }
  }

  /** @returns undefined when the `size` bytes of the file have another digest */
  async verifyAs(digest: Digest, size: Bytes): Promise<VerifiedFile | undefined> {
    this.#assertWritable()
    if (this.#writing.size > 0 || this.prefix !== size || this.#claimed.end !== size) {
      throw new Error(`an ingest of ${this.#claimed.end} bytes was to be verified as ${size}`)
    }
    this.#state = 'sealed'
    const hex = await this.#hash.finish(algorithmOf(digest), size)
    if (hex !== hexOf(digest)) return undefined
    const sync = async (): Promise<void> => {
      await this.#sync()
      if (!isUpload(this.identity)) return
      await this.#sidecar.noteAdopted(this.#extents, digest).catch(this.#options.report)
    }
    const adopted = (known: boolean): Promise<void> =>
      this.#end(async () => {
        await this.#remove('.json')
        if (!known && isUpload(this.identity)) return digest
        await this.#remove('.adopted')
      })
    return { digest, size, path: this.path, sync, adopted } as VerifiedFile
  }

  disown(): void {
    this.#disowned = true
    // The next process would resume the bytes that a sidecar vouches for.
    void Promise.resolve(this.#saving).then(() => this.#remove('.json'))
  }

  async keep(stranded = false): Promise<void> {
    // A hung write may still reach the file at any time, over the bytes of a later ingest.
    if (this.#disowned || isHangingDisk(this.#error)) return this.discard()
    this.#stranded = stranded
    await this.#end(async () => {
      try {
        if (this.bytes > 0) {
          await this.#sync()
          // When this fails, the last sidecar still tells the truth, and this process remembers the rest.
          await this.save()
        }
        if (this.bytes > 0 || isUpload(this.identity)) return this.#extents
      } catch (error) {
        this.#options.report(error)
      }
      await this.#remove('.json', '.part', '.adopted')
    })
  }

  async discard(): Promise<void> {
    // The sidecar goes first: a partial file without one counts for nothing.
    await this.#end(async () => this.#remove('.json', '.part', '.adopted'))
  }

  /** The first caller decides how the ingest ends; later ones wait for that. Never throws. */
  #end(finish: () => Promise<ExtentMap | Digest | undefined>): Promise<void> {
    this.#ending ??= (async () => {
      this.#state = 'ended'
      this.#hash.cancel()
      // A later ingest may open the same file: no write of this one may still run then.
      await Promise.allSettled([...this.#writing, this.#saving])
      const kept = await finish()
      this.#file[Symbol.dispose]()
      await this.#options.ended(kept)
    })()
    return this.#ending
  }

  #assertWritable(): void {
    if (this.#state !== 'open') throw new Error('the ingest takes no more bytes')
    if (this.#error) throw this.#error
  }

  #tooFarAhead(): boolean {
    const { maxUnhashed, maxUnsynced } = this.#options.limits
    return this.#hash.behind(this.prefix) > maxUnhashed || this.#unsynced > maxUnsynced
  }

  /** Backpressure: waits while hashing or syncing is too far behind. */
  async #keepPace(): Promise<void> {
    const { maxUnhashed, maxUnsynced } = this.#options.limits
    if (this.#hash.behind(this.prefix) > maxUnhashed) await this.#hash.reached(this.prefix - maxUnhashed)
    while (this.#saving && this.#unsynced > maxUnsynced) await this.#saving
    this.#assertWritable()
  }

  async #fill(
    gaps: readonly { start: Bytes; end: Bytes }[],
    chunks: readonly Uint8Array[],
    position: Bytes,
  ): Promise<void> {
    for (const { start, end } of gaps) {
      await this.#file.write(sliceChunks(chunks, start - position, end - position), start)
      this.#extents.add(start, end)
      this.#unsynced += end - start
      this.#unsaved += end - start
    }
    this.#hash.advance(this.prefix)
    if (this.#unsaved >= this.#options.limits.saveEvery) this.#saveSoon()
  }

  /** Syncs everything that was written before the call; one sync runs at a time. */
  async #sync(): Promise<void> {
    while (this.#syncing) await this.#syncing
    if (this.#syncFailed) throw new Error('an earlier sync has failed', { cause: this.#error })
    if (this.#unsynced === 0) return
    this.#unsynced = 0
    this.#syncing = this.#file.datasync()
    try {
      await this.#syncing
    } catch (error) {
      this.#syncFailed = true
      this.#error ??= asError(error)
      throw error
    } finally {
      this.#syncing = undefined
    }
  }

  #saveSoon(): void {
    if (this.#saving || this.#disowned || this.#state === 'ended') return
    this.#saving = this.save().finally(() => {
      this.#saving = undefined
    })
  }

  /** The present bytes survive a power loss once it resolves. Never throws: a failure costs the chance to resume. */
  async save(): Promise<void> {
    try {
      await this.#save()
    } catch (error) {
      this.#options.report(error)
    }
  }

  async #save(): Promise<void> {
    // Extents are copied before the sync, so that the sidecar never mentions a byte that came in between.
    const extents = this.#extents.copy()
    this.#unsaved = 0
    await this.#sync()
    await this.#sidecar.write(extents)
  }

  /** Truncates the file to `to`; no write may be running. After a failure the ingest takes no more bytes. */
  async rewind(to: Bytes): Promise<void> {
    this.#assertWritable()
    await this.#saving
    const { hashers, identity } = this.#options
    try {
      this.#extents.clip(to)
      this.#claimed.clip(to)
      // No sidecar may vouch for bytes that are about to be replaced by others.
      await this.#save()
      await this.#file.truncate(to)
      this.#hash.cancel()
      this.#hash = new PartialHash(hashers, hashedBy(identity), this.#file, to)
    } catch (error) {
      this.#error ??= asError(error)
      throw error
    }
  }

  /** Makes a new file survive the process. @throws the system's error */
  note(): Promise<void> {
    return this.#sidecar.note(this.#extents)
  }

  async #remove(...endings: readonly ('.json' | '.part' | '.adopted')[]): Promise<undefined> {
    for (const ending of endings) {
      if (ending !== '.adopted' || isUpload(this.identity))
        await this.#options.remove(this.#options.stem + ending)
    }
  }
}

export class DownloadFile extends PartialFile<IngestIdentity> implements Ingest {
  verify(size: Bytes): Promise<VerifiedFile | undefined> {
    return this.verifyAs(this.identity.digest, size)
  }
}

export class UploadFile extends PartialFile<UploadIdentity> implements UploadIngest {
  override verifyAs(digest: Digest, size = this.prefix): Promise<VerifiedFile | undefined> {
    return super.verifyAs(digest, size)
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
