/** Names of files: a house in which everything is found by its name. */
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'

const SRC = path.join(import.meta.dirname, '../src')
const MOST_ROOMS = 12
const MOST_FILES = 15

const entries = readdirSync(SRC, { recursive: true, withFileTypes: true })
const files = entries
  .filter((it) => it.isFile())
  .map((it) => path.relative(SRC, path.join(it.parentPath, it.name)))

test('the house has few rooms, and no folder is crowded', (t) => {
  t.ok(readdirSync(SRC).length <= MOST_ROOMS, 'at the top')
  const folders = Map.groupBy(files, (file) => path.dirname(file))
  t.ok(folders.size > MOST_ROOMS)
  for (const [folder, inside] of folders) t.ok(inside.length <= MOST_FILES, `${folder}: ${inside.length}`)
  t.end()
})

test('within a room no two files have the same name', (t) => {
  const names = Map.groupBy(files, (file) => `${file.split('/', 1)[0]}/…/${path.basename(file)}`)
  const twice = [...names.values()].filter((it) => it.length > 1)
  t.same(twice, [])
  t.end()
})

test('every file begins by saying what it is', (t) => {
  const silent = files.filter((file) => !/^(#!.*\n)?\/\*\*/.test(readFileSync(path.join(SRC, file), 'utf8')))
  t.same(silent, [])
  t.end()
})
