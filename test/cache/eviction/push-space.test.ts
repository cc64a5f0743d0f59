import { test } from 'tap'
import { PushSpace } from '../../../src/cache/eviction/push-space.ts'

const MiB = 1024 * 1024

const REFUSED = { code: 'ENOSPC' }

/** A disk with so much to give, and so much that may go. */
function roomOf(disk: { headroom: number; evictable: number }) {
  const freed: number[] = []
  const room = new PushSpace({
    headroom: () => Promise.resolve(disk.headroom),
    canFree: (bytes) => Promise.resolve(bytes <= disk.evictable),
    makeRoom: (bytes) => {
      freed.push(bytes)
      disk.evictable -= bytes
      disk.headroom += bytes
      return Promise.resolve(true)
    },
  })
  return { room, freed }
}

test('what is announced is made room for, or refused, and nothing goes for what is refused', async (t) => {
  const disk = { headroom: 10 * MiB, evictable: 20 * MiB }
  const { room, freed } = roomOf(disk)
  await t.rejects(room.expect(30 * MiB + 1), REFUSED)
  t.same(freed, [])
  using first = await room.expect(25 * MiB)
  t.same(freed, [15 * MiB], 'no more than it takes')
  await t.rejects(room.expect(6 * MiB), REFUSED, 'what is announced is spoken for')
  await first.arrive(20 * MiB)
  disk.headroom -= 20 * MiB
  await t.rejects(room.expect(6 * MiB), REFUSED, 'whether it has come or not')
  {
    using _second = await room.expect(5 * MiB)
    await t.rejects(room.expect(1), REFUSED)
  }
  using _third = await room.expect(5 * MiB)
})

test('what nobody announced is looked at as it comes', async (t) => {
  const disk = { headroom: 1, evictable: 8 * MiB }
  const { room, freed } = roomOf(disk)
  using body = await room.expect(undefined)
  const come = async (bytes: number): Promise<void> => {
    await body.arrive(bytes)
    disk.headroom -= bytes
  }
  for (let nth = 0; nth < 8; nth++) await come(MiB)
  t.ok(freed.length > 0)
  await t.rejects(async () => {
    for (let nth = 0; nth < 8; nth++) await come(MiB)
  }, REFUSED)
  t.ok(disk.headroom > -6 * MiB, 'little more is taken than there is')
})

test('it is full from a refusal on until there is room again, and where nothing may go', async (t) => {
  const disk = { headroom: 100 * MiB, evictable: 0 }
  const { room } = roomOf(disk)
  t.notOk(await room.isFull())
  await t.rejects(room.expect(1000 * MiB), REFUSED)
  t.notOk(await room.isFull(), 'so large a push says little')
  disk.headroom = 3 * MiB
  await t.rejects(room.expect(5 * MiB), REFUSED)
  t.ok(await room.isFull())
  disk.headroom = 5 * MiB
  t.notOk(await room.isFull())
  disk.headroom = 3 * MiB
  t.notOk(await room.isFull(), 'until somebody is refused again')
  disk.headroom = -1
  t.ok(await room.isFull())
  disk.evictable = 2
  t.notOk(await room.isFull())
})

test('a disk that says nothing is tried', async (t) => {
  const room = new PushSpace({
    headroom: () => Promise.reject(new Error('EIO')),
    canFree: () => Promise.resolve(false),
    makeRoom: () => Promise.resolve(false),
  })
  using body = await room.expect(MiB)
  await body.arrive(2 * MiB)
  t.notOk(await room.isFull())
})
