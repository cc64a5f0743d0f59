/** That what a test has started may still write to the folder of the test while it ends, in every test. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import './folders-last.ts'

const TESTS = path.join(import.meta.dirname, '..')
const RULE = path.join(import.meta.dirname, 'folders-last.ts')

test('a folder goes after all that was begun in it', async (t) => {
  let wasThere: boolean | undefined
  await t.test('within', async (t) => {
    const folder = t.testdir()
    t.teardown(async () => {
      await new Promise((resolve) => setImmediate(resolve))
      wasThere = existsSync(folder)
    })
  })
  t.equal(wasThere, true)
})

/** A file, and all of our tests' files that it imports. */
function withImports(file: string, known = new Map<string, string>()): Map<string, string> {
  if (known.has(file) || !existsSync(file)) return known
  const text = readFileSync(file, 'utf8')
  known.set(file, text)
  for (const [, imported = ''] of text.matchAll(/^(?:import|.*\bfrom) '(\..+)'$/gm)) {
    const other = path.join(path.dirname(file), imported)
    if (other.startsWith(TESTS)) withImports(other, known)
  }
  return known
}

test('so it is wherever a test has a folder', (t) => {
  const files = readdirSync(TESTS, { recursive: true, encoding: 'utf8' }).filter((it) =>
    it.endsWith('.test.ts'),
  )
  const having = files.filter((file) => {
    const texts = withImports(path.join(TESTS, file))
    return [...texts.values()].some((text) => text.includes('.testdir('))
  })
  t.ok(having.length > 50)
  t.same(
    having.filter((file) => !withImports(path.join(TESTS, file)).has(RULE)),
    [],
    'without ./support/folders-last.ts',
  )
  t.end()
})
