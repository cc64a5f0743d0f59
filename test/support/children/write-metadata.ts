/** Writes tags t0, t1, … one after another, and says of each when it was answered. */
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { parseTag } from '../../../src/oci/reference.ts'
import { named, repository, tagRecord } from '../../suites/metadata.ts'

const store = await openMetadata(process.argv[2] ?? '')
for (let i = 0; ; i++) {
  await store.transaction((tx) =>
    tx.putTag(repository('docker.io', 'a'), tagRecord(named('x'), { tag: parseTag(`t${i}`) })),
  )
  console.log(String(i))
}
