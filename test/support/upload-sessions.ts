/** Upload sessions on a real disk and a real index. */
import path from 'node:path'
import { pino } from 'pino'
import type { Test } from 'tap'
import { PushSpace } from '../../src/cache/eviction/push-space.ts'
import { digestOf } from '../../src/oci/digest.ts'
import { parseRepositoryName, type RepositoryName } from '../../src/oci/reference.ts'
import { UploadSessions } from '../../src/registry/uploads/upload-sessions.ts'
import type { IngestOptions } from '../../src/storage/ingest/disk-ingest.ts'
import { BlobHolds } from '../../src/storage/locks/blob-holds.ts'
import { InProcessKeyedLocks } from '../../src/storage/locks/keyed-locks.ts'
import { LOCAL, type MetadataStore } from '../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'
import { KiB, MiB, openStore, type Store } from './stores.ts'

export const APP = parseRepositoryName('team/app')
export const OTHER = parseRepositoryName('team/other')
export const LARGE = 3 * MiB + 17
export const DAY = 24 * 3600 * 1000

export interface Pushing {
  readonly uploads: UploadSessions
  readonly store: Store
  readonly metadata: MetadataStore
  readonly locks: InProcessKeyedLocks
  /** Local by now. */
  readonly names: Set<RepositoryName>
  readonly linked: (repository: RepositoryName, content: Buffer) => Promise<boolean>
}

export async function openUploads(
  t: Test,
  options: Partial<IngestOptions> & { transaction?: MetadataStore['transaction']; room?: PushSpace } = {},
): Promise<Pushing> {
  const store = await openStore(t, options)
  const metadata = await openMetadata(path.join(store.root, 'metadata.sqlite'))
  t.teardown(() => metadata.close())
  const locks = new InProcessKeyedLocks()
  const names = new Set<RepositoryName>()
  const transaction: MetadataStore['transaction'] =
    options.transaction ?? ((fill) => metadata.transaction(fill))
  const uploads = uploadsOf(
    store,
    { finishedUploads: metadata.finishedUploads, transaction },
    { locks, names, room: options.room ?? ROOMY },
  )
  const linked = (name: RepositoryName, content: Buffer): Promise<boolean> =>
    metadata.blobs.linked({ registry: LOCAL, name }, digestOf(content))
  return { uploads, store, metadata, locks, names, linked }
}

/** A disk that ends nowhere. */
const ROOMY = new PushSpace({
  headroom: () => Promise.resolve(Infinity),
  canFree: () => Promise.resolve(false),
  makeRoom: () => Promise.resolve(false),
})

/** Those of another process on the same folder, if it is called a second time. */
export function uploadsOf(
  { blobs, ingests }: Store,
  metadata: Pick<MetadataStore, 'transaction' | 'finishedUploads'>,
  {
    locks = new InProcessKeyedLocks(),
    names = new Set<RepositoryName>(),
    now = () => 1000,
    room = ROOMY,
  }: {
    locks?: InProcessKeyedLocks
    names?: Set<RepositoryName>
    now?: () => number
    room?: Pick<PushSpace, 'begin' | 'expect'>
  } = {},
): UploadSessions {
  return new UploadSessions({
    ...{
      store: blobs,
      ingests,
      metadata,
      locks,
      holds: new BlobHolds(),
      now,
      sessionTtlMs: DAY,
      pushSpace: room,
    },
    localNames: { add: (name) => void names.add(name) },
    log: pino({ level: 'silent' }),
  })
}

export async function* body(content: Buffer, piece = 64 * KiB): AsyncGenerator<Buffer> {
  for (let at = 0; at < content.length; at += piece) yield content.subarray(at, at + piece)
}

export async function push(uploads: UploadSessions, name: RepositoryName, content: Buffer): Promise<void> {
  await using session = await uploads.start(name)
  await session.append(body(content), undefined)
  await session.finish(digestOf(content))
}

/** Ends like a client that leaves. */
export async function* brokenBody(content: Buffer): AsyncGenerator<Buffer> {
  yield content
  throw new Error('ECONNRESET')
}
