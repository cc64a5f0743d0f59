/**
 * Retry of writes that met a full disk (ENOSPC), after an eviction has made room.
 *
 * A write that fails has written nothing (a short one says how much), so the retry writes exactly what is missing.
 * The caller gets the error only when nothing may be evicted any more. A sync is never retried: nobody can vouch for
 * the pages that it could not write.
 */
import type { Bytes } from '../../base/units.ts'
import type { Files } from './files.ts'
import type { MetadataStore } from '../metadata/metadata.ts'
import type { DiskReserve } from './disk-reserve.ts'
import { isDiskFull } from '../storage-error.ts'

/** Frees at least so much of a disk that was just found full. False: nothing may be evicted. Never rejects. */
export type MakeRoom = (bytes: Bytes) => Promise<boolean>

/** Other writers may take what was freed; but evictions that free no real space must not empty the cache. */
const MOST_ROUNDS = 8

/** Longer than an eviction takes: it breaks the deadlock of a writer and an eviction that wait for each other. */
const PATIENCE_MS = 30_000

/** Disk space of a new name, or a new folder. */
const A_NAME: Bytes = 64 * 1024

/** The most that a commit may add to the index's log. */
const A_COMMIT: Bytes = 1024 * 1024

export function withDiskFullRetry(files: Files, makeRoom: MakeRoom): Files {
  const named = <T>(write: () => Promise<T>): Promise<T> => untilItFits(write, A_NAME, makeRoom)
  return {
    ...files,
    open: (path, flags) => (flags === 'wx+' ? named(() => files.open(path, flags)) : files.open(path, flags)),
    write: (file, chunks, position) => {
      const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
      return untilItFits(() => files.write(file, chunks, position), bytes, makeRoom)
    },
    rename: (from, to) => named(() => files.rename(from, to)),
    makeFolder: (path, mode) => named(() => files.makeFolder(path, mode)),
  }
}

/** The eviction must not use it: it would wait for itself. */
export function metadataWithDiskFullRetry(metadata: MetadataStore, makeRoom: MakeRoom): MetadataStore {
  return {
    ...metadata,
    transaction: (fill) => untilItFits(() => metadata.transaction(fill), A_COMMIT, makeRoom),
  }
}

/** Evictions, deletions and collections use it: they free disk space. */
export function metadataWithReserve(metadata: MetadataStore, reserve: DiskReserve): MetadataStore {
  return { ...metadata, transaction: (fill) => reserve.use(() => metadata.transaction(fill)) }
}

async function untilItFits<T>(write: () => Promise<T>, bytes: Bytes, makeRoom: MakeRoom): Promise<T> {
  for (let round = 1; ; round += 1) {
    try {
      return await write()
    } catch (error) {
      if (!isDiskFull(error) || round > MOST_ROUNDS || !(await within(makeRoom(bytes)))) throw error
    }
  }
}

async function within(made: Promise<boolean>): Promise<boolean> {
  const tooLate = Promise.withResolvers<boolean>()
  const timer = setTimeout(() => tooLate.resolve(false), PATIENCE_MS)
  try {
    return await Promise.race([made, tooLate.promise])
  } finally {
    clearTimeout(timer)
  }
}
