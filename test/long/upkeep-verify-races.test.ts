/**
 * A look at everything while somebody is just at what it looks at, step by step.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { parseRepositoryName } from '../../src/oci/reference.ts'
import type { BlobAudit } from '../../src/storage/metadata/audit-index.ts'
import { DiskBlobStore } from '../../src/storage/blobs/disk-blob-store.ts'
import { DiskBlobAudit } from '../../src/storage/blobs/disk-audit.ts'
import { nodeFiles } from '../../src/storage/files/files.ts'
import { Hashers } from '../../src/storage/ingest/hasher.ts'
import { InProcessKeyedLocks, type KeyedLocks } from '../../src/storage/locks/keyed-locks.ts'
import { LOCAL, type MetadataStore } from '../../src/storage/metadata/metadata.ts'
import { openMetadata } from '../../src/storage/metadata/sqlite/open.ts'
import type { Finding } from '../../src/storage/integrity/findings.ts'
import { verify } from '../../src/storage/integrity/verify.ts'
import { blobFile } from '../support/folder.ts'
import { image, layer } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'
import '../support/folders-last.ts'

const NEVER = new AbortController().signal
const KEY = { registry: LOCAL, name: parseRepositoryName('team/app') }
const APP = image({ seed: 'app' })
const LAYER = APP.layers[0]!

interface Scene {
  readonly root: string
  readonly metadata: MetadataStore
  readonly locks: KeyedLocks
  /** What happens just before a file is looked at for the first time. */
  first(digest: string, happens: () => Promise<unknown>): void
  look(repair: boolean): Promise<Finding[]>
}

async function scene(t: Test): Promise<Scene> {
  const root = t.testdir()
  await seedLocal(root, [{ name: 'team/app', tags: { 1: APP } }])
  const closing = new AsyncDisposableStack()
  t.teardown(() => closing.disposeAsync())
  const database = path.join(root, 'metadata.sqlite')
  const hashers = closing.adopt(new Hashers({ threads: 1 }), (it) => it.close())
  const metadata = closing.adopt(await openMetadata(database), (it) => it.close())
  const locks = new InProcessKeyedLocks()
  const audit = new DiskBlobAudit({ root, files: nodeFiles, hashers })
  const happenings = new Map<string, () => Promise<unknown>>()
  const disk: BlobAudit = {
    check: async (digest, options) => {
      const happens = happenings.get(digest)
      happenings.delete(digest)
      await happens?.()
      return audit.check(digest, options)
    },
    identify: (digest) => audit.identify(digest),
    quarantine: (digest) => audit.quarantine(digest),
    quarantined: () => audit.quarantined(),
    foreign: () => audit.foreign(),
    leftovers: () => audit.leftovers(),
  }
  const options = {
    ...{ disk, store: new DiskBlobStore(root), metadata, locks, lanes: 2, serving: true, now: Date.now },
  }
  return {
    root,
    metadata,
    locks,
    first: (digest, happens) => void happenings.set(digest, happens),
    look: async (repair) => {
      const found: Finding[] = []
      for await (const event of verify(options, { repair }, NEVER)) {
        if ('finding' in event) found.push(event.finding)
      }
      return found
    },
  }
}

for (const repair of [false, true]) {
  const way = repair ? 'mended' : 'told'

  test(`what is collected just now is not ${way}`, async (t) => {
    const it = await scene(t)
    it.first(LAYER.digest, async () => {
      await it.metadata.transaction((tx) => {
        tx.deleteManifest(KEY, APP.manifest.digest, 1)
        for (const { digest } of [...APP.blobs, APP.manifest]) tx.forgetBlob(digest)
      })
      for (const { digest } of [...APP.blobs, APP.manifest]) rmSync(blobFile(it.root, digest))
    })
    t.same(await it.look(repair), [])
  })

  test(`a file on its way to the index is not ${way}`, async (t) => {
    const it = await scene(t)
    const pushed = layer({ size: 500, seed: 'pushed' })
    const file = blobFile(it.root, pushed.digest)
    mkdirSync(path.dirname(file), { recursive: true })
    writeFileSync(file, pushed.bytes)
    // A push holds the digest from before its file is there until the index knows it.
    const held = await it.locks.exclusive(`blob ${pushed.digest}`, NEVER)
    it.first(pushed.digest, () => {
      setImmediate(() => {
        void it.metadata
          .transaction((tx) => tx.linkBlob(KEY, pushed.digest, pushed.bytes.length, 1))
          .then(() => held[Symbol.dispose]())
      })
      return Promise.resolve()
    })
    t.same(await it.look(repair), [])
  })

  test(`a damaged file that is replaced just now is not ${way}`, async (t) => {
    const it = await scene(t)
    const file = blobFile(it.root, LAYER.digest)
    writeFileSync(file, 'damaged')
    const held = await it.locks.exclusive(`blob ${LAYER.digest}`, NEVER)
    it.first(LAYER.digest, () => {
      setTimeout(() => {
        writeFileSync(file, LAYER.bytes)
        held[Symbol.dispose]()
      }, 100)
      return Promise.resolve()
    })
    // Without a repair it is not read twice for that.
    t.same(
      (await it.look(repair)).map(({ kind }) => kind),
      repair ? [] : ['corrupt'],
    )
  })

  test(`a manifest that is deleted just now is not ${way} as incomplete`, async (t) => {
    const it = await scene(t)
    await it.metadata.transaction((tx) => tx.unlinkBlob(KEY, LAYER.digest))
    const held = await it.locks.exclusive(`repository ${KEY.name}`, NEVER)
    it.first(APP.manifest.digest, () => {
      setTimeout(() => {
        void it.metadata
          .transaction((tx) => tx.deleteManifest(KEY, APP.manifest.digest, 1))
          .then(() => held[Symbol.dispose]())
      }, 300)
      return Promise.resolve()
    })
    t.same(
      (await it.look(repair)).filter(({ wrong }) => wrong),
      [],
    )
  })
}
