/**
 * What the store's tests share: an ingest folder and a blob folder on a real disk, and bytes to fill them.
 */
import { spawn } from 'node:child_process'
import { createHash, randomFillSync } from 'node:crypto'
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { DiskBlobStore } from '../../src/storage/blobs/disk-blob-store.ts'
import { openIngests, type IngestOptions } from '../../src/storage/ingest/disk-ingest.ts'
import { nodeFiles, type Files } from '../../src/storage/files/files.ts'
import { Hashers } from '../../src/storage/ingest/hasher.ts'
import type { BlobStore } from '../../src/storage/blobs/blob-store.ts'
import type { GrowingSource, Ingest, IngestIdentity, IngestStore } from '../../src/storage/ingest/ingest.ts'
import './folders-last.ts'

export const KiB = 1024
export const MiB = 1024 * KiB

export interface Store {
  readonly root: string
  readonly ingests: IngestStore
  readonly blobs: BlobStore
  readonly reports: unknown[]
  /** Names in the ingest folder. */
  partials(): string[]
}

/** `root` again opens what an earlier one left. */
export async function openStore(
  t: Test,
  options: Partial<IngestOptions> & { root?: string; files?: Files } = {},
): Promise<Store> {
  const hashers = new Hashers({ threads: 1 })
  const opened: IngestStore[] = []
  // Before the folder is made: what is registered later runs after the folder has been removed.
  t.teardown(async () => {
    for (const ingests of opened) await ingests.close()
    await hashers.close()
  })
  const root = options.root ?? t.testdir()
  const files = options.files ?? nodeFiles
  const reports: unknown[] = []
  const report = (error: unknown): void => void reports.push(error)
  const ingests = await openIngests({ report, ...options, root, files, hashers })
  opened.push(ingests)
  const partials = (): string[] => readdirSync(path.join(root, 'ingest')).sort()
  return { root, ingests, blobs: new DiskBlobStore(root, files), reports, partials }
}

export function randomBytes(size: number): Buffer {
  return randomFillSync(Buffer.allocUnsafe(size))
}

export function identityOf(content: Buffer, source = 'docker.io'): IngestIdentity {
  return { source, digest: digestOf(content) }
}

/** Everything from `from` on, in pieces. */
export async function pour(ingest: Ingest, content: Buffer, from = 0, piece = 256 * KiB): Promise<void> {
  for (let at = from; at < content.length; at += piece) {
    await ingest.write([content.subarray(at, at + piece)], at)
  }
}

/** Verified and adopted. */
export async function land(store: Store, content: Buffer, source?: string): Promise<void> {
  const ingest = await store.ingests.open(identityOf(content, source))
  await pour(ingest, content)
  const file = await ingest.verify(content.length)
  if (!file) throw new Error('the bytes did not verify')
  await store.blobs.adopt(file)
}

export async function readAll(source: Pick<GrowingSource, 'read'>, size: number): Promise<Buffer> {
  const buffer = Buffer.alloc(size)
  for (let at = 0; at < size;) {
    const count = await source.read(buffer.subarray(at), at)
    if (count === 0) return buffer.subarray(0, at)
    at += count
  }
  return buffer
}

/** 0.3 to 3 MiB that follow from the number, so that another process can make them again. */
export function numbered(number: number): Buffer {
  const size = 300 * KiB + ((number * 7919) % 2700) * KiB
  return createHash('shake256', { outputLength: size }).update(String(number)).digest()
}

/** A program of test/store/children, killed at the end of the test; `lines` as they come. */
export function startChild(t: Test, name: string, ...args: string[]) {
  const script = path.join(import.meta.dirname, 'children', `${name}.ts`)
  const child = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
  }
  t.teardown(kill)
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  return { lines, kill }
}
