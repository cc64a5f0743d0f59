/**
 * The local half of the program, without its wire: pushes, pulls and collections in one process, by one clock.
 */
import path from 'node:path'
import type { Test } from 'tap'
import { PushSpace } from '../../src/cache/eviction/push-space.ts'
import { parseRepositoryName, type Reference } from '../../src/oci/reference.ts'
import type { Events } from '../../src/registry/notifications/event.ts'
import { Collector, type Collected } from '../../src/storage/gc/collector.ts'
import { LocalNames } from '../../src/registry/naming/local-names.ts'
import { LocalPushTarget } from '../../src/registry/local/local-push-target.ts'
import { LocalRepository } from '../../src/registry/local/local-repository.ts'
import { PushedContent } from '../../src/registry/local/pushed-content.ts'
import { UploadSessions } from '../../src/registry/uploads/upload-sessions.ts'
import type { BlobStore } from '../../src/storage/blobs/blob-store.ts'
import { DiskBlobStore } from '../../src/storage/blobs/disk-blob-store.ts'
import { openIngests } from '../../src/storage/ingest/disk-ingest.ts'
import { Hashers } from '../../src/storage/ingest/hasher.ts'
import { BlobHolds } from '../../src/storage/locks/blob-holds.ts'
import { InProcessKeyedLocks, type KeyedLocks } from '../../src/storage/locks/keyed-locks.ts'
import type { MetadataStore } from '../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { createMetrics, type Metrics } from '../../src/telemetry/metrics.ts'
import type { Content, Image } from './images.ts'

export const HOUR = 3_600_000
const NEVER = new AbortController().signal

export interface LocalRegistry {
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly collector: Collector
  readonly metrics: Metrics
  /** Lines of the log, parsed. */
  readonly lines: Record<string, unknown>[]
  readonly locks: KeyedLocks
  /** Of the clock that everything goes by; moved by hand. */
  now: number
  /** Waited for before every call to the index and the store: who goes on when is up to the test. */
  turn: () => Promise<unknown>
  /** Called within the commit of every write that is told of. */
  tell: Events['queue']
  reader(name: string): LocalRepository
  pushes(name: string): LocalPushTarget
  pushBlob(name: string, blob: Content): Promise<void>
  pushManifest(name: string, manifest: Content, reference?: string): Promise<void>
  pushImage(name: string, image: Image, tag?: string): Promise<void>
  collect(options?: { dryRun: boolean }): Promise<readonly Collected[]>
}

export async function startLocalRegistry(t: Test, graceMs = 24 * HOUR): Promise<LocalRegistry> {
  const root = t.testdir()
  const closing = new AsyncDisposableStack()
  t.teardown(() => closing.disposeAsync())
  const hashers = closing.adopt(new Hashers({ threads: 1 }), (it) => it.close())
  const ingests = closing.adopt(await openIngests({ root, hashers }), (it) => it.close())
  const index = closing.adopt(await openMetadata(path.join(root, 'metadata.sqlite')), (it) => it.close())
  const turns = { next: (): Promise<unknown> => Promise.resolve() }
  const metadata = inTurn<MetadataStore>(index, () => turns.next())
  const store = inTurn(new DiskBlobStore(root), () => turns.next())
  const locks = new InProcessKeyedLocks()
  const localNames = await LocalNames.load(metadata)
  const lines: Record<string, unknown>[] = []
  const log = createLog({
    level: 'debug',
    write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>),
  })
  const metrics = createMetrics()
  const clock = { now: 1_700_000_000_000 }
  const now = (): number => clock.now
  const holds = new BlobHolds()
  const sessionTtlMs = 24 * HOUR
  const room = new PushSpace({
    headroom: () => Promise.resolve(Infinity),
    canFree: () => Promise.resolve(false),
    makeRoom: () => Promise.resolve(false),
  })
  const uploads = new UploadSessions({
    ...{ store, ingests, metadata, locks, holds, localNames, pushSpace: room, sessionTtlMs, log, now },
  })
  const touchEveryMs = Math.min(HOUR, graceMs / 24)
  const bytes = new PushedContent({ store, metadata, suspect: () => undefined })
  const reader = (name: string): LocalRepository =>
    new LocalRepository({ bytes, metadata, touchEveryMs, log, now }, parseRepositoryName(name))
  const pushes = (name: string): LocalPushTarget =>
    new LocalPushTarget(
      {
        store,
        pushSpace: room,
        reserve: { use: (write) => write() },
        bytes,
        ingests,
        metadata,
        locks,
        holds,
        localNames,
        uploads,
        events: { queue: (...args) => registry.tell(...args) },
        settings: { immutable: [] },
        readableHere: (from, digest) => reader(from).holds(digest),
        log,
        now,
      },
      parseRepositoryName(name),
    )
  const registry: LocalRegistry = {
    store,
    metadata,
    locks,
    metrics,
    lines,
    tell: () => undefined,
    collector: new Collector({ store, metadata, locks, graceMs, metrics, log, now }),
    get now() {
      return clock.now
    },
    set now(to) {
      clock.now = to
    },
    get turn() {
      return turns.next
    },
    set turn(to) {
      turns.next = to
    },
    reader,
    pushes,
    async pushBlob(name, blob) {
      await using session = await pushes(name).startUpload()
      await session.append(bodyOf(blob.bytes), undefined)
      await session.finish(blob.digest)
    },
    async pushManifest(name, { bytes, mediaType, digest }, reference = digest) {
      await pushes(name).putManifest(reference as Reference, { bytes, mediaType, tags: [] })
    },
    async pushImage(name, image, tag) {
      for (const blob of image.blobs) await registry.pushBlob(name, blob)
      for (const manifest of image.manifests) {
        await registry.pushManifest(name, manifest, manifest === image.manifest ? tag : undefined)
      }
    },
    async collect(options = { dryRun: false }) {
      const collected: Collected[] = []
      for await (const it of registry.collector.run({ ...options, signal: NEVER })) collected.push(it)
      return collected
    },
  }
  return registry
}

/** The same object, whose methods wait for their turn first; those that list do not. */
function inTurn<T extends object>(target: T, turn: () => Promise<unknown>): T {
  return new Proxy(target, {
    get(_, key) {
      const value: unknown = Reflect.get(target, key, target)
      if (typeof value === 'object' && value !== null) return inTurn(value, turn)
      if (typeof value !== 'function') return value
      if (key === 'list') return (...args: unknown[]): unknown => Reflect.apply(value, target, args)
      return async (...args: unknown[]): Promise<unknown> => {
        await turn()
        return (await Reflect.apply(value, target, args)) as unknown
      }
    },
  })
}

async function* bodyOf(bytes: Buffer): AsyncGenerator<Buffer> {
  yield await Promise.resolve(Buffer.from(bytes))
}
