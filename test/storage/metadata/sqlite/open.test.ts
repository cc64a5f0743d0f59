import path from 'node:path'
import { test } from 'tap'
import { openMetadata } from '../../../../src/storage/metadata/sqlite/open.ts'
import { metadataSuite } from '../../../suites/metadata.ts'
import '../../../support/folders-last.ts'

test('metadata on SQLite', async (t) => {
  metadataSuite(t, async (t) => {
    const store = await openMetadata(path.join(t.testdir(), 'metadata.sqlite'))
    t.teardown(() => store.close())
    return store
  })
})
