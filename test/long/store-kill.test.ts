import { test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { identityOf, numbered, openStore, pour, readAll, startChild } from '../support/stores.ts'

test('however often the process is killed: no torn blob, no lost one, and half ones go on', async (t) => {
  const root = t.testdir()
  const adopted = new Set<number>()
  let inherited = 0
  for (let round = 0; round < 6; round++) {
    const first = round * 1000
    const child = startChild(t, 'fill', root, String(first))
    t.equal((await child.lines.next()).value, 'ready')
    // Some blobs in, and then at whatever it is doing: three more are on their way.
    for (let i = 0; i < round; i++) adopted.add(Number((await child.lines.next()).value))
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 40))
    await child.kill()

    const store = await openStore(t, { root })
    for await (const { digest, size } of store.blobs.list()) {
      await using reader = await store.blobs.open(digest)
      if (digestOf(await readAll(reader!, size)) !== digest) t.fail('a torn blob')
    }
    for (const number of adopted) {
      if (!(await store.blobs.stat(digestOf(numbered(number))))) t.fail('a blob that was adopted is lost')
    }
    for (let number = first; number < first + round + 3; number++) {
      const content = numbered(number)
      const ingest = await store.ingests.open(identityOf(content))
      inherited += ingest.inherited
      await pour(ingest, content, ingest.prefix)
      t.ok(await ingest.verify(content.length))
      await ingest.discard()
    }
    await store.ingests.close()
  }
  t.comment(`${inherited} bytes were inherited`)
})
