import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { DiskBlobAudit } from '../../../src/storage/blobs/disk-audit.ts'
import { DiskBlobStore } from '../../../src/storage/blobs/disk-blob-store.ts'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { Hashers } from '../../../src/storage/ingest/hasher.ts'
import { blobStoreSuite } from '../../suites/blob-store.ts'
import { identityOf, land, openStore, pour } from '../../support/stores.ts'

const content = Buffer.from('the bytes')
const digest = digestOf(content)
const hex = digest.slice('sha256:'.length)

test('blobs on a disk', async (t) => {
  blobStoreSuite(t, async (t) => {
    const { blobs, ingests } = await openStore(t)
    return {
      blobs,
      verified: async (content, digest) => {
        const ingest = await ingests.open({ source: 'docker.io', digest })
        await pour(ingest, content)
        const file = await ingest.verify(content.length)
        if (!file) throw new Error('the bytes did not verify')
        return file
      },
    }
  })
})

test('a blob lies where its digest says', async (t) => {
  const store = await openStore(t)
  await land(store, content)
  t.same(readdirSync(path.join(store.root, 'blobs/sha256', hex.slice(0, 2))), [hex])
})

test('a relative root is meant from where the process was when it began', async (t) => {
  const store = await openStore(t)
  await land(store, content)
  const blobs = new DiskBlobStore(path.relative(process.cwd(), store.root))
  t.ok(await blobs.stat(digest))
  await blobs.adopt(await verifiedFile(store, Buffer.from('other')))
  t.ok(await blobs.stat(digestOf(Buffer.from('other'))))
})

test('what is not a blob is not listed and cannot be opened', async (t) => {
  const store = await openStore(t)
  await land(store, content)
  const folder = path.join(store.root, 'blobs/sha256')
  writeFileSync(path.join(folder, 'README'), 'x')
  writeFileSync(path.join(folder, hex.slice(0, 2), `${hex}.bak`), 'x')
  mkdirSync(path.join(folder, 'zz'))
  writeFileSync(path.join(folder, 'zz', hex), 'x')
  const asFolder = digestOf(Buffer.from('folder'))
  mkdirSync(path.join(folder, asFolder.slice(7, 9), asFolder.slice(7)), { recursive: true })
  t.equal(await store.blobs.stat(asFolder), undefined)
  t.equal(await store.blobs.open(asFolder), undefined)
  const found: string[] = []
  for await (const info of store.blobs.list()) found.push(info.digest)
  t.same(found, [digest])
})

test('a blob of the wrong size is replaced by the right one', async (t) => {
  const store = await openStore(t)
  const folder = path.join(store.root, 'blobs/sha256', hex.slice(0, 2))
  mkdirSync(folder, { recursive: true })
  writeFileSync(path.join(folder, hex), 'torn')
  t.equal((await store.blobs.stat(digest))?.size, 4, 'the store tells what is there')
  await land(store, content)
  t.equal((await store.blobs.stat(digest))?.size, content.length)
})

const INTRUDERS: Record<string, (file: string) => void> = {
  'a folder': (file) => {
    mkdirSync(file)
    writeFileSync(path.join(file, 'mine'), 'mine')
  },
  'a link to the same bytes': (file) => {
    writeFileSync(`${file}.elsewhere`, content)
    symlinkSync(`${file}.elsewhere`, file)
  },
  'a link to nothing': (file) => symlinkSync('nowhere', file),
  'a pipe': (file) => void execFileSync('mkfifo', [file]),
}

for (const [what, put] of Object.entries(INTRUDERS)) {
  test(`${what} in the place of a blob is none, and gives way to the right one`, async (t) => {
    const store = await openStore(t)
    const folder = path.join(store.root, 'blobs/sha256', hex.slice(0, 2))
    mkdirSync(folder, { recursive: true })
    put(path.join(folder, hex))
    t.equal(await store.blobs.stat(digest), undefined)
    t.equal(await store.blobs.open(digest), undefined)
    await land(store, content)
    t.equal((await store.blobs.stat(digest))?.size, content.length)
    t.ok(readFileSync(path.join(folder, hex)).equals(content))
    const kept = path.join(store.root, 'quarantine', `sha256-${hex}`, 'mine')
    if (what === 'a folder') t.equal(readFileSync(kept, 'utf8'), 'mine', 'nothing of it was lost')
  })

  test(`${what} in the place of a blob can be deleted like one`, async (t) => {
    const store = await openStore(t)
    const folder = path.join(store.root, 'blobs/sha256', hex.slice(0, 2))
    mkdirSync(folder, { recursive: true })
    put(path.join(folder, hex))
    await store.blobs.delete(digest)
    t.notOk(readdirSync(folder).includes(hex))
  })
}

test('folders of blobs may be links: to a larger disk', async (t) => {
  const store = await openStore(t)
  mkdirSync(path.join(store.root, 'elsewhere'))
  symlinkSync('elsewhere', path.join(store.root, 'blobs'))
  await land(store, content)
  const found: string[] = []
  for await (const info of store.blobs.list()) found.push(info.digest)
  t.same(found, [digest])
})

test('a blob that has rotted in its place is replaced by what has just been verified', async (t) => {
  const store = await openStore(t)
  await land(store, content)
  const file = path.join(store.root, 'blobs/sha256', hex.slice(0, 2), hex)
  writeFileSync(file, Buffer.alloc(content.length, 'x'))
  await land(store, content)
  t.ok(readFileSync(file).equals(content), 'whoever brought it was told that it is here')
  t.same(readdirSync(path.join(store.root, 'ingest')), [])
})

test('folders, data and name are synced in that order before an adoption resolves', async (t) => {
  const steps: string[] = []
  const noted: Files = {
    ...nodeFiles,
    datasync: async (file) => {
      await nodeFiles.datasync(file)
      steps.push('data')
    },
    rename: async (from, to) => {
      await nodeFiles.rename(from, to)
      steps.push('rename')
    },
    syncFolder: async (folder) => {
      await nodeFiles.syncFolder(folder)
      steps.push(`folder ${path.basename(folder)}`)
    },
  }
  const store = await openStore(t, { files: noted })
  const file = await verifiedFile(store, content)
  steps.length = 0
  await store.blobs.adopt(file)
  const root = `folder ${path.basename(store.root)}`
  t.same(steps, [root, 'folder blobs', 'folder sha256', 'data', 'rename', `folder ${hex.slice(0, 2)}`])
})

test('when the rename fails nothing is adopted, and the ingest can still be kept', async (t) => {
  const full = Object.assign(new Error('no space'), { code: 'ENOSPC' })
  const files: Files = {
    ...nodeFiles,
    rename: (from, to) => (to.includes('blobs') ? Promise.reject(full) : nodeFiles.rename(from, to)),
  }
  const store = await openStore(t, { files })
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content)
  const file = await ingest.verify(content.length)
  await t.rejects(store.blobs.adopt(file!), { code: 'ENOSPC' })
  t.equal(await store.blobs.stat(digest), undefined)
  await ingest.keep()
  t.equal((await store.ingests.open(identityOf(content))).inherited, content.length)
})

async function verifiedFile(store: Awaited<ReturnType<typeof openStore>>, content: Buffer) {
  const ingest = await store.ingests.open(identityOf(content))
  await pour(ingest, content)
  const file = await ingest.verify(content.length)
  if (!file) throw new Error('the bytes did not verify')
  return file
}

test('folders of strangers among the blobs are not read', async (t) => {
  const strangers = ['lost+found', '.snapshot', 'private', 'abc']
  const denied = Object.assign(new Error('EACCES: permission denied, scandir'), { code: 'EACCES' })
  const files: Files = {
    ...nodeFiles,
    list: (folder) => {
      // As root, which tests may be, everything can be read.
      if (strangers.includes(path.basename(folder))) return Promise.reject(denied)
      return nodeFiles.list(folder)
    },
  }
  const store = await openStore(t, { files })
  await land(store, content)
  for (const top of ['blobs', 'blobs/sha256', `blobs/sha256/${hex.slice(0, 2)}`]) {
    for (const name of strangers)
      mkdirSync(path.join(store.root, top, name, 'inner'), { recursive: true, mode: 0 })
  }
  const listed: string[] = []
  for await (const it of store.blobs.list()) listed.push(it.digest)
  t.same(listed, [digest])
  const hashers = new Hashers()
  const audit = new DiskBlobAudit({ root: store.root, files, hashers })
  const foreign: string[] = []
  for await (const it of audit.foreign()) foreign.push(it)
  t.equal(foreign.length, 3 * strangers.length, 'they are told of')
})
