/** What two configurations differ in: keys, and never a value. */
import { test } from 'tap'
import { loadConfig, type Config } from '../../src/config/schema.ts'
import { differencesOf } from '../../src/config/diff.ts'

function config(text: string): Config {
  return loadConfig({ text, env: {} }).config
}

test('differences are told by key', (t) => {
  const cases: [before: string, after: string, keys: string[]][] = [
    ['', '', []],
    ['local: [a/**]', 'local: [b/**]', ['local']],
    ['', 'push: { deny: [] }', ['push.deny']],
    ['', 'cache: { offline: true, maxSize: 1GiB }', ['cache.maxSize', 'cache.offline']],
    // Every upstream takes these from there.
    ['', 'cache: { tagTtl: 5m }', ['cache.tagTtl']],
    ['upstreams: { a.test: {} }', 'upstreams: { a.test: { tagTtl: 5m } }', ['upstreams.a.test.tagTtl']],
    ['upstreams: { a.test: {}, b.test: {} }', 'upstreams: { b.test: {}, a.test: {} }', []],
    ['upstreams: { a.test: {} }', 'upstreams: { b.test: {} }', ['upstreams.a.test', 'upstreams.b.test']],
    [
      'upstreams: { a.test: { username: me, password: one } }',
      'upstreams: { a.test: { username: me, password: two, timeouts: { idle: 1s } } }',
      ['upstreams.a.test.timeouts.idle', 'upstreams.a.test.credentials'],
    ],
  ]
  for (const [before, after, keys] of cases) {
    t.strictSame(
      differencesOf(config(before), config(after)).toSorted(),
      keys.toSorted(),
      `${before} -> ${after}`,
    )
  }
  t.end()
})
