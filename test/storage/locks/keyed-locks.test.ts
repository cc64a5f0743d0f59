import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import {
  COLLECTION_LOCK,
  EVICTION_LOCK,
  InProcessKeyedLocks,
  lockOfBlob,
  lockOfRepository,
  lockOfUpload,
} from '../../../src/storage/locks/keyed-locks.ts'

const never = new AbortController().signal

test('one at a time per key, first come, first served', async (t) => {
  const locks = new InProcessKeyedLocks()
  const order: number[] = []
  let inside = 0
  await Promise.all(
    [1, 2, 3, 4].map(async (i) => {
      const lock = await locks.exclusive('a', never)
      t.equal(++inside, 1)
      order.push(i)
      await new Promise((resolve) => setImmediate(resolve))
      inside--
      lock[Symbol.dispose]()
    }),
  )
  t.same(order, [1, 2, 3, 4])
})

test('another key is free', async (t) => {
  const locks = new InProcessKeyedLocks()
  await locks.exclusive('a', never)
  t.ok(await locks.exclusive('b', never))
})

test('whoever gives up waiting is passed over', async (t) => {
  const locks = new InProcessKeyedLocks()
  const first = await locks.exclusive('a', never)
  const impatient = new AbortController()
  const second = locks.exclusive('a', impatient.signal)
  const third = locks.exclusive('a', never)
  impatient.abort(new Error('enough'))
  await t.rejects(second, { message: 'enough' })
  first[Symbol.dispose]()
  t.ok(await third)
  await t.rejects(locks.exclusive('b', impatient.signal), { message: 'enough' })
})

test('giving up later, or letting go twice, disturbs nobody', async (t) => {
  const locks = new InProcessKeyedLocks()
  const controller = new AbortController()
  const first = await locks.exclusive('a', never)
  const second = locks.exclusive('a', controller.signal)
  first[Symbol.dispose]()
  const held = await second
  controller.abort()
  first[Symbol.dispose]()
  let entered = false
  const third = locks.exclusive('a', never).then((lock) => {
    entered = true
    return lock
  })
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(entered, false)
  held[Symbol.dispose]()
  ;(await third)[Symbol.dispose]()
})

test('no two things have the same lock', (t) => {
  const keys = [
    lockOfBlob(digestOf(Buffer.from('one'))),
    lockOfBlob(digestOf(Buffer.from('two'))),
    ...['a', 'b', 'collection', 'eviction'].map((name) => lockOfRepository(parseRepositoryName(name))),
    ...['a', 'b'].map(lockOfUpload),
    COLLECTION_LOCK,
    EVICTION_LOCK,
  ]
  t.equal(new Set(keys).size, keys.length)
  t.end()
})
