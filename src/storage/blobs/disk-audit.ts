/**
 * Blob audit on a directory: checks the blob files one by one, and lists those that were taken out of service,
 * `<root>/quarantine/<algorithm>-<hex>`. Only `quarantine` changes anything.
 */
import type { Bytes } from '../../base/units.ts'
import { createHash } from 'node:crypto'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { algorithmOf, hexOf, isDigest, type Digest } from '../../oci/digest.ts'
import { isOutOfFiles } from '../../base/open-files.ts'
import { blobPath } from './blob-path.ts'
import { NO_FILE } from './disk-blob-store.ts'
import { systemCode, type Files } from '../files/files.ts'
import { readAll } from '../files/read-all.ts'
import { OpenFile } from '../files/open-file.ts'
import { parseFileName } from '../ingest/partial-identity.ts'
import { putAside, QUARANTINE } from './quarantine.ts'
import type { BlobAudit, Checked, FileIdentity, Leftovers } from '../metadata/audit-index.ts'
import type { Hashers } from '../ingest/hasher.ts'

/** Between two pieces a check may rest, or be aborted. */
const PIECE: Bytes = 4 * 1024 * 1024

/** A blob up to this size costs less to hash than to hand to another thread. */
const SMALL: Bytes = 256 * 1024

const NO_FILE_THERE: Checked = { is: 'no file', why: 'something that is no file is in its place' }

/** Matches the message, for the hashing thread can pass on nothing else of an error. */
const LOST = /\bEIO\b/

const QUARANTINED = /^(sha256|sha512)-([0-9a-f]+)(?:\.\d+)?$/

export class DiskBlobAudit implements BlobAudit {
  readonly #root: string
  readonly #files: Files
  readonly #hashers: Hashers

  constructor(options: { root: string; files: Files; hashers: Hashers }) {
    this.#root = path.resolve(options.root)
    this.#files = options.files
    this.#hashers = options.hashers
  }

  async check(digest: Digest, options: Parameters<BlobAudit['check']>[1]): Promise<Checked> {
    try {
      using file = await OpenFile.open(this.#files, blobPath(this.#root, digest), 'r')
      const { kind, size, identity } = await file.describe()
      if (kind !== 'file') return NO_FILE_THERE
      const hex = await this.#hash(digest, file, size, options)
      return { is: hex === hexOf(digest) ? 'sound' : 'corrupt', size, file: identity }
    } catch (error) {
      options.signal.throwIfAborted()
      // A lack of descriptors says nothing of the file.
      if (isOutOfFiles(error)) throw error
      const code = systemCode(error) ?? ''
      if (code === 'ENOENT') return { is: 'absent' }
      if (NO_FILE.includes(code)) return NO_FILE_THERE
      const why = error instanceof Error ? error.message : String(error)
      return { is: LOST.test(why) ? 'lost' : 'unreadable', why }
    }
  }

  async identify(digest: Digest): Promise<FileIdentity | undefined> {
    const info = await this.#files.stat(blobPath(this.#root, digest))
    return info?.kind === 'file' ? info.identity : undefined
  }

  async #hash(
    digest: Digest,
    file: OpenFile,
    size: Bytes,
    { signal, resting, read }: Parameters<BlobAudit['check']>[1],
  ): Promise<string> {
    if (size <= SMALL) {
      const bytes = await readAll(file, size)
      if (bytes === undefined) throw new Error('the file became shorter while it was read')
      await read?.(size)
      return createHash(algorithmOf(digest)).update(bytes).digest('hex')
    }
    const job = this.#hashers.start(algorithmOf(digest), file)
    try {
      for (let at = 0; at < size;) {
        signal.throwIfAborted()
        const began = performance.now()
        const end = Math.min(at + PIECE, size)
        await job.reached(end)
        await read?.(end - at)
        at = end
        if (resting) await sleep(performance.now() - began, undefined, { signal })
      }
      return await job.finish(size)
    } finally {
      job.cancel()
    }
  }

  quarantine(digest: Digest): Promise<string | undefined> {
    return putAside(this.#files, this.#root, digest)
  }

  async quarantined(): ReturnType<BlobAudit['quarantined']> {
    const found: { digest: Digest; path: string; size: Bytes }[] = []
    for (const name of (await this.#files.list(path.join(this.#root, QUARANTINE))) ?? []) {
      const [, algorithm, hex] = QUARANTINED.exec(name) ?? []
      const digest = `${String(algorithm)}:${String(hex)}`
      const info = await this.#files.stat(path.join(this.#root, QUARANTINE, name))
      if (!isDigest(digest) || info === undefined) continue
      found.push({ digest, path: path.join(QUARANTINE, name), size: info.size })
    }
    return found
  }

  async *foreign(): AsyncIterable<string> {
    for (const algorithm of await this.#names('blobs')) {
      const known = algorithm === 'sha256' || algorithm === 'sha512'
      if (!known) yield path.join('blobs', algorithm)
      for (const prefix of known ? await this.#names('blobs', algorithm) : []) {
        if (!/^[0-9a-f]{2}$/.test(prefix)) yield path.join('blobs', algorithm, prefix)
        else yield* this.#foreignIn(algorithm, prefix)
      }
    }
  }

  async *#foreignIn(algorithm: string, prefix: string): AsyncIterable<string> {
    for (const hex of await this.#names('blobs', algorithm, prefix)) {
      if (isDigest(`${algorithm}:${hex}`) && hex.startsWith(prefix)) continue
      yield path.join('blobs', algorithm, prefix, hex)
    }
  }

  async leftovers(): ReturnType<BlobAudit['leftovers']> {
    const found = {
      uploads: { files: 0, bytes: 0 },
      downloads: { files: 0, bytes: 0 },
      others: { files: 0, bytes: 0 },
    }
    for (const name of await this.#names('ingest')) {
      const info = await this.#files.stat(path.join(this.#root, 'ingest', name))
      if (info === undefined) continue
      const ours = parseFileName(name)
      // A sidecar is not counted beside its partial file.
      if (ours !== undefined && ours.ending !== 'part') continue
      const kind = ours === undefined ? 'others' : name.startsWith('upload-') ? 'uploads' : 'downloads'
      found[kind].files++
      found[kind].bytes += info.size
    }
    return found satisfies Record<string, Leftovers>
  }

  async #names(...folder: string[]): Promise<string[]> {
    const target = path.join(this.#root, ...folder)
    const info = await this.#files.stat(target)
    return info?.kind === 'folder' ? ((await this.#files.list(target)) ?? []) : []
  }
}
