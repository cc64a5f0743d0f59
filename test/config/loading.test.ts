/** What comes of a configuration besides its values: what cannot be read, and what is worth a warning. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { loadConfig } from '../../src/config/schema.ts'
import '../support/folders-last.ts'

test('a file that cannot be read is a problem of the configuration', async (t) => {
  t.throws(() => loadConfig({ file: join(t.testdir(), 'none.yaml'), env: {} }), {
    name: 'ConfigError',
    message: /ENOENT/,
  })
  const file = join(t.testdir(), 'some.yaml')
  writeFileSync(file, 'log: { level: debug }')
  t.equal(loadConfig({ file, env: {} }).config.log.level, 'debug')
})

test('what is worth a second thought is a warning, and nothing else is', (t) => {
  t.strictSame(loadConfig({ text: 'cache: { pin: , tagTtl: 2m }', env: {} }).warnings, [])
  const { warnings } = loadConfig({ text: 'push: { anonymous: true }', env: {} })
  t.match(warnings, [/^push\.anonymous: whoever reaches 127\.0\.0\.1 may push/])
  t.end()
})
