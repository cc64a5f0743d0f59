import { test } from 'tap'
import { createLru } from '../../src/base/lru.ts'

test('the entry that was used longest ago goes first', (t) => {
  const cache = createLru<string, number>(2)
  cache.set('a', 1).set('b', 2)
  cache.get('a')
  cache.set('c', 3)
  t.same([...cache.keys()].toSorted(), ['a', 'c'])
  t.end()
})

test('an entry expires by the clock, from its very beginning', (t) => {
  const clock = { now: 0 }
  const cache = createLru<string, number>(10, { ttl: 100, now: () => clock.now })
  cache.set('a', 1).set('b', 2, { ttl: 1_000 })
  clock.now += 100
  t.equal(cache.get('a'), 1)
  clock.now += 1
  t.equal(cache.get('a'), undefined)
  t.equal(cache.getRemainingTTL('b'), 899)
  t.equal(cache.get('b'), 2)
  t.end()
})

test('without a time to live an entry stays', (t) => {
  const clock = { now: 0 }
  const cache = createLru<string, number>(10, { now: () => clock.now })
  cache.set('a', 1).set('b', 2, { ttl: 5 })
  clock.now += 1e9
  t.equal(cache.get('a'), 1)
  t.equal(cache.get('b'), undefined)
  t.end()
})
