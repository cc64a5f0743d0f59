/**
 * Retry of writes that met a full disk (ENOSPC): room is made and the write is made again, wherever it met the end of
 * the disk.
 *
 * A write that fails has written nothing (a short one has said how much), so doing it again is going on with exactly
 * what was not written. Only where nothing is left that may go does the error go up. A sync is never made again: what
 * it could not bring to the disk nobody can vouch for.
 */
import type { Bytes } from '../../base/units.ts'
import type { Files } from './files.ts'
import type { MetadataStore } from '../metadata/metadata.ts'
import type { DiskReserve } from './disk-reserve.ts'
import { isDiskFull } from '../storage-error.ts'

/** Frees at least so much, for who has just been told that the disk is full. False: nothing may go. Never rejects. */
export type MakeRoom = (bytes: Bytes) => Promise<boolean>

/** Others take what was freed for us; but what frees nothing real must not empty the cache. */
const MOST_ROUNDS = 8

/** Longer than it takes to make room: whoever makes it must not wait for us while we wait for him. */
const PATIENCE_MS = 30_000

/** A new name, a new folder. */
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

/** Not for whoever makes the room: it would wait for itself. */
export function metadataWithDiskFullRetry(metadata: MetadataStore, makeRoom: MakeRoom): MetadataStore {
  return {
    ...metadata,
    transaction: (fill) => untilItFits(() => metadata.transaction(fill), A_COMMIT, makeRoom),
  }
}

/** For whoever frees what there is on the disk. */
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
