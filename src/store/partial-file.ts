/**
 * The one implementation of Ingest: a file in the folder of partial files.
 *
 * No byte is ever written twice: what the file already has is kept, so the bytes that were hashed are the bytes
 * that are there. After `verify` began nothing is written any more, so they are also the bytes that are adopted.
 */
import { createHash } from 'node:crypto'
import { algorithmOf, hexOf } from '../oci/digest.ts'
import { ExtentMap } from './extents.ts'
import { dropBytes, type OpenFile } from './open-file.ts'
import { writeSidecar } from './sidecar.ts'
import type { Bytes } from './blob-store.ts'
import type { Files } from './files.ts'
import type { HashJob, Hashers } from './hasher.ts'
import type { Ingest, IngestIdentity, VerifiedFile } from './ingest.ts'

const MiB = 1024 * 1024

/** Up to here a hash costs the event loop less than a thread's messages do: 3 ms at 0.3 GB/s. */
const INLINE_HASH_BYTES = MiB

export interface PartialLimits {
  /** New bytes between two sidecars. */
  readonly saveEvery: Bytes
  /** A writer that is this far ahead of the sync that runs waits for it. */
  readonly maxUnsynced: Bytes
  /** A writer that is this far ahead of the hasher waits for it. */
  readonly maxUnhashed: Bytes
}

export const DEFAULT_LIMITS: PartialLimits = {
  saveEvery: 64 * MiB,
  maxUnsynced: 256 * MiB,
  maxUnhashed: 256 * MiB,
}

interface PartialFileOptions {
  readonly files: Files
  readonly hashers: Hashers
  readonly identity: IngestIdentity
  /** Without `.part` and `.json`. */
  readonly stem: string
  readonly folder: string
  readonly file: OpenFile
  readonly inherited: ExtentMap
  readonly limits: PartialLimits
  /** Called once, when the ingest ends; with the extents when it was kept. */
  readonly ended: (kept: ExtentMap | undefined) => Promise<void>
  /** Of a file that is no longer needed. Never rejects. */
  readonly remove: (file: string) => Promise<void>
  /** Failures that cost only the chance to resume. */
  readonly report: (error: unknown) => void
}

export class PartialFile implements Ingest {
  readonly identity: IngestIdentity
  readonly inherited: Bytes
  readonly path: string
  readonly #options: PartialFileOptions
  readonly #file: OpenFile
  /** Written, readable. */
  readonly #extents: ExtentMap
  /** Written or just being written. */
  readonly #claimed: ExtentMap
  readonly #inheritedPrefix: Bytes
  readonly #writing = new Set<Promise<void>>()
  #state: 'open' | 'sealed' | 'ended' = 'open'
  #ending: Promise<void> | undefined
  /** Of a write or a sync; it takes no more bytes then. */
  #error: Error | undefined
  #job: HashJob | undefined

  /** Written since the last sync began. */
  #unsynced: Bytes = 0
  #syncing: Promise<void> | undefined
  /** Once a sync has failed the kernel may have dropped the pages: nothing later can vouch for them. */
  #syncFailed = false
  /** Written since the last sidecar was begun. */
  #unsaved: Bytes = 0
  #saving: Promise<void> | undefined

  constructor(options: PartialFileOptions) {
    this.#options = options
    this.identity = options.identity
    this.path = `${options.stem}.part`
    this.#file = options.file
    this.#extents = options.inherited
    this.#claimed = ExtentMap.parse(options.inherited.toJSON()) ?? new ExtentMap()
    this.inherited = this.#extents.bytes
    this.#inheritedPrefix = this.#extents.prefix
    this.#advanceHash()
  }

  get prefix(): Bytes {
    return this.#extents.prefix
  }

  get bytes(): Bytes {
    return this.#extents.bytes
  }

  readableTo(position: Bytes): Bytes {
    return this.#extents.readableTo(position)
  }

  nextExtent(position: Bytes): Bytes {
    return this.#extents.nextStart(position)
  }

  read(buffer: Buffer, position: Bytes): Promise<Bytes> {
    const length = Math.min(buffer.length, this.readableTo(position) - position)
    // Beyond an extent the file may have holes, and those read as zeros.
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

  async verify(size: Bytes): Promise<VerifiedFile | undefined> {
    this.#assertWritable()
    if (this.#writing.size > 0 || this.prefix !== size || this.#claimed.end !== size) {
      throw new Error(`an ingest of ${this.#claimed.end} bytes was to be verified as ${size}`)
    }
    this.#state = 'sealed'
    const hex = await (this.#job?.finish(size) ?? this.#hashInline(size))
    const { digest } = this.identity
    if (hex !== hexOf(digest)) return undefined
    const sync = (): Promise<void> => this.#sync()
    const adopted = (): Promise<void> => this.#end(async () => this.#remove('.json'))
    return { digest, size, path: this.path, sync, adopted } as VerifiedFile
  }

  async keep(): Promise<void> {
    await this.#end(async () => {
      try {
        if (this.bytes > 0) {
          await this.#sync()
          // Without a new sidecar the last one still tells the truth, and this process knows better.
          await this.#save().catch(this.#options.report)
          return this.#extents
        }
      } catch (error) {
        this.#options.report(error)
      }
      await this.#remove('.json', '.part')
    })
  }

  async discard(): Promise<void> {
    // The sidecar first: a partial file without one counts for nothing.
    await this.#end(async () => this.#remove('.json', '.part'))
  }

  /** The first who ends it says how; everybody else waits for that. Never throws. */
  #end(finish: () => Promise<ExtentMap | undefined>): Promise<void> {
    this.#ending ??= (async () => {
      this.#state = 'ended'
      this.#job?.cancel()
      // A later ingest may open the same file: nothing of this one may still be written then.
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
    return (
      this.#unhashed() > this.#options.limits.maxUnhashed || this.#unsynced > this.#options.limits.maxUnsynced
    )
  }

  /** What an earlier process left does not count: its hash is behind through no fault of the writer. */
  #unhashed(): Bytes {
    return this.#job ? this.prefix - Math.max(this.#job.hashed, this.#inheritedPrefix) : 0
  }

  /** Waits, before anything is written, while hashing or syncing is too far behind. */
  async #keepPace(): Promise<void> {
    const { maxUnhashed, maxUnsynced } = this.#options.limits
    if (this.#unhashed() > maxUnhashed) await this.#job?.reached(this.prefix - maxUnhashed)
    while (this.#saving && this.#unsynced > maxUnsynced) await this.#saving
    this.#assertWritable()
  }

  async #fill(
    gaps: readonly { start: Bytes; end: Bytes }[],
    chunks: readonly Uint8Array[],
    position: Bytes,
  ): Promise<void> {
    for (const { start, end } of gaps) {
      const part = takeBytes(dropBytes(chunks, start - position), end - start)
      await this.#file.write(part, start)
      this.#extents.add(start, end)
      this.#unsynced += end - start
      this.#unsaved += end - start
    }
    this.#advanceHash()
    if (this.#unsaved >= this.#options.limits.saveEvery) this.#saveSoon()
  }

  #advanceHash(): void {
    const { prefix } = this
    if (prefix <= INLINE_HASH_BYTES) return
    this.#job ??= this.#options.hashers.start(algorithmOf(this.identity.digest), this.#file)
    this.#job.advance(prefix)
  }

  async #hashInline(size: Bytes): Promise<string> {
    const hash = createHash(algorithmOf(this.identity.digest))
    const buffer = Buffer.allocUnsafe(Math.min(size, 256 * 1024))
    for (let position = 0; position < size;) {
      const count = await this.read(buffer, position)
      if (count === 0) throw new Error('the file is shorter than was written to it')
      hash.update(buffer.subarray(0, count))
      position += count
    }
    return hash.digest('hex')
  }

  /** Everything written before the call is on the disk when it resolves. One at a time. */
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
    if (this.#saving || this.#state === 'ended') return
    this.#saving = this.#save()
      .catch((error: unknown) => this.#options.report(error))
      .finally(() => {
        this.#saving = undefined
      })
  }

  async #save(): Promise<void> {
    const { files, stem, folder } = this.#options
    // First what is there, then the sync: the sidecar never mentions a byte that came in between.
    const extents = this.#extents.toJSON()
    this.#unsaved = 0
    await this.#sync()
    await writeSidecar(files, `${stem}.json`, this.identity, extents)
    await files.syncFolder(folder)
  }

  async #remove(...endings: readonly ('.json' | '.part')[]): Promise<undefined> {
    for (const ending of endings) await this.#options.remove(this.#options.stem + ending)
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}

function takeBytes(chunks: readonly Uint8Array[], count: Bytes): Uint8Array[] {
  const taken: Uint8Array[] = []
  let rest = count
  for (const chunk of chunks) {
    if (rest === 0) break
    taken.push(chunk.length <= rest ? chunk : chunk.subarray(0, rest))
    rest -= Math.min(rest, chunk.length)
  }
  return taken
}
