/**
 * `npm run faults`: the fault matrix as a table, without the rest of the tests. `npm run faults -- hang` is that of
 * the faults with such a name.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { FAULTS } from '../test/support/faults/all.ts'
import { Matrix } from '../test/support/matrix.ts'
import { problemsOf, tableOf } from '../test/support/matrix-table.ts'

const wanted = process.argv.slice(2)
const faults = FAULTS.filter(({ name }) => wanted.length === 0 || wanted.some((it) => name.includes(it)))

await using closing = new AsyncDisposableStack()
const dir = mkdtempSync(path.join(tmpdir(), 'entrepot-faults-'))
closing.defer(() => rmSync(dir, { recursive: true, force: true }))
const owner = {
  teardown: (clean: () => unknown) =>
    closing.defer(async () => {
      await clean()
    }),
}

const matrix = await Matrix.start(owner, dir, faults)
const rows = await matrix.run(matrix.cells)
console.log(tableOf(rows).join('\n'))
for (const problem of problemsOf(rows)) {
  console.error(problem)
  process.exitCode = 1
}
