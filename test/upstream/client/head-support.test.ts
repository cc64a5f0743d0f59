import { test } from 'tap'
import { HeadSupport } from '../../../src/upstream/client/head-support.ts'

const MINUTE = 60_000

function support() {
  const clock = { now: 0 }
  const heads = new HeadSupport(() => clock.now)
  const prove = (): void => {
    heads.failed('app:1', 'unusable')
    heads.compare('app:1', true)
  }
  return { clock, heads, prove }
}

void test('a HEAD that failed is no proof until a GET of the same thing succeeds', (t) => {
  const { heads } = support()
  heads.failed('app:1', 'unusable')
  t.notOk(heads.avoided)
  heads.compare('app:2', true)
  t.notOk(heads.avoided, 'that was something else')
  heads.compare('app:1', false)
  heads.compare('app:1', true)
  t.notOk(heads.avoided, 'GET said the same at first')
  heads.failed('app:1', 'unusable')
  heads.compare('app:1', true)
  t.ok(heads.avoided)
  t.end()
})

void test('what a GET finds much later proves nothing', (t) => {
  const { heads, clock } = support()
  heads.failed('app:1', 'unusable')
  clock.now += MINUTE
  heads.compare('app:1', true)
  t.notOk(heads.avoided)
  t.end()
})

void test('HEAD is tried again after ten minutes, and with every further proof after twice as long, up to an hour', (t) => {
  const { heads, clock, prove } = support()
  for (const minutes of [10, 20, 40, 60, 60]) {
    prove()
    clock.now += minutes * MINUTE - 1
    t.ok(heads.avoided, `${minutes} min`)
    clock.now += 1
    t.notOk(heads.avoided, `${minutes} min`)
  }
  heads.worked()
  prove()
  clock.now += 10 * MINUTE
  t.notOk(heads.avoided, 'and from the beginning once it worked')
  t.end()
})

for (const how of ['absent', 'late'] as const) {
  void test(`what HEAD calls absent may have been pushed a moment later, and what is late be chance: ${how} counts from the second time on`, (t) => {
    const { heads } = support()
    const contradicted = (what: string): void => {
      heads.failed(what, how)
      heads.compare(what, true)
    }
    contradicted('app:1')
    t.notOk(heads.avoided)
    heads.worked()
    contradicted('app:2')
    t.notOk(heads.avoided, 'HEAD worked in between')
    contradicted('app:1')
    t.ok(heads.avoided)
    t.end()
  })
}
