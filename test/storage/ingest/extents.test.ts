import fc from 'fast-check'
import { test } from 'tap'
import { ExtentMap } from '../../../src/storage/ingest/extents.ts'

const range = fc
  .tuple(fc.nat(60), fc.nat(60))
  .map(([a, b]) => ({ start: Math.min(a, b), end: Math.max(a, b) }))
const ranges = fc.array(range, { maxLength: 12 })

/** The same as an ExtentMap, byte by byte. */
function bytesOf(added: readonly { start: number; end: number }[]): boolean[] {
  const there = Array.from({ length: 64 }, () => false)
  for (const { start, end } of added) there.fill(true, start, end)
  return there
}

function mapOf(added: readonly { start: number; end: number }[]): ExtentMap {
  const map = new ExtentMap()
  for (const { start, end } of added) map.add(start, end)
  return map
}

test('an extent map says of every byte whether it is there', async (t) => {
  fc.assert(
    fc.property(ranges, (added) => {
      const map = mapOf(added)
      const there = bytesOf(added)
      for (let at = 0; at < 64; at++) {
        const hole = there.indexOf(false, at)
        if (map.readableTo(at) !== hole)
          throw new Error(`readableTo(${at}) = ${map.readableTo(at)}, not ${hole}`)
        const start = there.findIndex((is, i) => i >= at && is && (i === 0 || !there[i - 1]))
        const expected = start === -1 ? Infinity : start
        if (map.nextStart(at) !== expected) throw new Error(`nextStart(${at}), not ${expected}`)
      }
    }),
  )
  t.pass()
})

test('the prefix, the end and the sum follow from the bytes', async (t) => {
  fc.assert(
    fc.property(ranges, (added) => {
      const map = mapOf(added)
      const there = bytesOf(added)
      return (
        map.prefix === there.indexOf(false) &&
        map.end === there.lastIndexOf(true) + 1 &&
        map.bytes === there.filter((is) => is).length
      )
    }),
  )
  t.pass()
})

test('the gaps of a range are exactly what is not there', async (t) => {
  fc.assert(
    fc.property(ranges, range, (added, { start, end }) => {
      const there = bytesOf(added)
      const missing = bytesOf(mapOf(added).gaps(start, end))
      return missing.every((is, i) => is === (i >= start && i < end && !there[i]))
    }),
  )
  t.pass()
})

test('clipping forgets what lies beyond', async (t) => {
  fc.assert(
    fc.property(ranges, fc.nat(64), (added, size) => {
      const map = mapOf(added)
      map.clip(size)
      const there = bytesOf(added).map((is, i) => is && i < size)
      return there.every((is, i) => is === map.readableTo(i) > i)
    }),
  )
  t.pass()
})

test('what was serialised is read again, and the order of adding does not matter', async (t) => {
  fc.assert(
    fc.property(ranges, (added) => {
      const map = mapOf(added)
      const text = JSON.stringify(map)
      const parsed = ExtentMap.parse(JSON.parse(text))
      return JSON.stringify(parsed) === text && JSON.stringify(mapOf(added.toReversed())) === text
    }),
  )
  t.pass()
})

test('whatever is not sorted ranges is refused', async (t) => {
  const bad = [
    null,
    {},
    'x',
    [1, 2],
    [[1]],
    [[1, 1]],
    [[2, 1]],
    [[-1, 1]],
    [[0, 1.5]],
    [['0', '1']],
    [[0, 1, 2]],
    [
      [0, 5],
      [5, 6],
    ],
    [
      [4, 5],
      [0, 1],
    ],
    [[0, Infinity]],
  ]
  for (const value of bad) t.equal(ExtentMap.parse(value), undefined, JSON.stringify(value))
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const map = ExtentMap.parse(value)
      return map === undefined || JSON.stringify(map) === JSON.stringify(value)
    }),
  )
})
