import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { land, MiB, openStore, randomBytes } from './support.ts'

test('what has passed through to the disk is collected every few MiB', async (t) => {
  const asked: unknown[] = []
  const { gc } = globalThis
  t.teardown(() => Object.assign(globalThis, { gc }))
  Object.assign(globalThis, { gc: (options: unknown) => asked.push(options) })
  const store = await openStore(t)
  await land(store, randomBytes(25 * MiB))
  t.ok(asked.length >= 5 && asked.length <= 7, `${asked.length} times for 25 MiB`)
  t.strictSame(asked[0], { type: 'minor' }, 'only the young generation')
})

test('npm start lets it ask', (t) => {
  const { scripts } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')) as {
    scripts: { start: string }
  }
  t.match(scripts.start, ' --expose-gc ')
  t.end()
})
