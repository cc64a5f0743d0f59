/** The memory in front of the index: it saves reads, and never tells what is not so any more. */
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import { parseTag } from '../../../src/oci/reference.ts'
import type { MetadataStore } from '../../../src/storage/metadata/metadata.ts'
import { cachingMetadata } from '../../../src/storage/metadata/caching-metadata.ts'
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { named, repository, tagRecord } from '../../suites/metadata.ts'
import '../../support/folders-last.ts'

const app = repository('local', 'team/app')
const latest = parseTag('latest')

/** An index of one tag, whose reads are counted, and can be held up or fail. */
function counted() {
  const reads = { count: 0, version: 1, digest: named('one'), failing: false }
  const inner = {
    repositories: {},
    tags: {
      get: async () => {
        reads.count++
        const record = tagRecord(reads.digest)
        await Promise.resolve()
        if (reads.failing) throw new Error('the disk is gone')
        return record
      },
    },
    manifests: {},
    blobs: {},
    transaction: async () => {
      await Promise.resolve()
      reads.version++
    },
  } as unknown as MetadataStore
  return { reads, index: cachingMetadata(inner, () => reads.version) }
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)))

test('what was read is not read again, in this turn or a later one', async (t) => {
  const { index, reads } = counted()
  await Promise.all([index.tags.get(app, latest), index.tags.get(app, latest)])
  await nextTurn()
  t.equal((await index.tags.get(app, latest))?.digest, named('one'))
  t.equal(reads.count, 1)
  await index.tags.get(repository('local', 'team/other'), latest)
  await index.tags.get(app, parseTag('older'))
  t.equal(reads.count, 3)
})

test('that there is none is remembered, too, and not for longer', async (t) => {
  const index = await opened(t)
  t.equal(await index.tags.get(app, latest), undefined)
  t.equal(await index.tags.get(app, latest), undefined)
  await index.transaction((tx) => tx.putTag(app, tagRecord(named('one'))))
  t.equal((await index.tags.get(app, latest))?.digest, named('one'))
})

test('after a write of ours the very next read is a new one', async (t) => {
  const { index, reads } = counted()
  await index.tags.get(app, latest)
  const written = index.transaction(() => undefined)
  reads.digest = named('two')
  await written
  t.equal((await index.tags.get(app, latest))?.digest, named('two'))
})

test('a write of ours of which nobody knows how it ended counts as one', async (t) => {
  const { reads } = counted()
  const failing = {
    ...{ repositories: {}, manifests: {}, blobs: {} },
    tags: { get: () => Promise.resolve(tagRecord(reads.digest)) },
    transaction: () => {
      reads.version++
      return Promise.reject(new Error('no answer for ten seconds'))
    },
  } as unknown as MetadataStore
  const index = cachingMetadata(failing, () => reads.version)
  await index.tags.get(app, latest)
  reads.digest = named('two')
  await t.rejects(index.transaction(() => undefined))
  t.equal((await index.tags.get(app, latest))?.digest, named('two'))
})

test('a read that a write overtook is not remembered', async (t) => {
  const { index, reads } = counted()
  const before = index.tags.get(app, latest)
  reads.digest = named('two')
  reads.version++
  await nextTurn()
  t.equal((await before)?.digest, named('one'))
  t.equal((await index.tags.get(app, latest))?.digest, named('two'))
  t.equal(reads.count, 2)
})

test('what could not be read is read again', async (t) => {
  const { index, reads } = counted()
  reads.failing = true
  await t.rejects(index.tags.get(app, latest), { message: 'the disk is gone' })
  reads.failing = false
  t.equal((await index.tags.get(app, latest))?.digest, named('one'))
})

test('an index that cannot be read says so, also of what was remembered', async (t) => {
  const { index, reads } = counted()
  await index.tags.get(app, latest)
  await nextTurn()
  Object.defineProperty(reads, 'version', {
    get() {
      throw new Error('the disk is gone')
    },
  })
  await t.rejects(index.tags.get(app, latest), { message: 'the disk is gone' })
})

test('what another process commits is seen from the next turn on', async (t) => {
  const index = await opened(t)
  await index.transaction((tx) => {
    tx.putRepository(app, 5)
    tx.putTag(app, tagRecord(named('one')))
    tx.linkBlob(app, named('layer'), 3, 7)
  })
  t.equal((await index.tags.get(app, latest))?.digest, named('one'))
  t.equal(await index.blobs.linked(app, named('layer')), true)
  t.equal((await index.repositories.get(app))?.servedAt, 5)
  const other = new DatabaseSync(path.join(t.testdirName, 'metadata.sqlite'))
  t.teardown(() => other.close())
  other.exec(`update tag set digest = '${named('two')}'; delete from repository_blob`)
  await nextTurn()
  t.equal((await index.tags.get(app, latest))?.digest, named('two'))
  t.equal(await index.blobs.linked(app, named('layer')), false)
})

async function opened(t: Test): Promise<MetadataStore> {
  const index = await openMetadata(path.join(t.testdir(), 'metadata.sqlite'))
  t.teardown(() => index.close())
  return index
}
