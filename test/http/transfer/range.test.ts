/** Ranges and conditions, without a server. */
import fc from 'fast-check'
import { test } from 'tap'
import {
  contentRange,
  matchesNone,
  parseRange,
  planRanges,
  rangeStillValid,
  wantsAll,
  type RangePlan,
} from '../../../src/http/transfer/range.ts'
import { digestOf } from '../../../src/oci/digest.ts'

const plan = (header: string | undefined, size: number): RangePlan => planRanges(parseRange(header), size)
const WHOLE = { kind: 'whole' }
const UNSATISFIABLE = { kind: 'unsatisfiable' }
const single = (start: number, end: number): unknown => ({ kind: 'single', range: { start, end } })

test('single ranges of a blob of 2048 bytes', (t) => {
  const cases: [string, unknown][] = [
    ['bytes=500-1499', single(500, 1500)],
    ['bytes=500-', single(500, 2048)],
    ['bytes=-500', single(1548, 2048)],
    ['bytes=-5000', single(0, 2048)],
    ['bytes=0-', single(0, 2048)],
    ['bytes=0-0', single(0, 1)],
    ['bytes=2047-2047', single(2047, 2048)],
    ['bytes=2000-5000', single(2000, 2048)],
    [`bytes=2000-${'9'.repeat(400)}`, single(2000, 2048)],
    ['BYTES=5-6', single(5, 7)],
    ['bytes= 5-6 ,', single(5, 7)],
    ['bytes=500-0', UNSATISFIABLE],
    ['bytes=5000-10000', UNSATISFIABLE],
    ['bytes=2048-', UNSATISFIABLE],
    [`bytes=${'9'.repeat(400)}-`, UNSATISFIABLE],
    ['bytes=-0', UNSATISFIABLE],
  ]
  for (const [header, expected] of cases) t.same(plan(header, 2048), expected, header.slice(0, 40))
  t.end()
})

test('what is no byte range is ignored', (t) => {
  const headers = [
    undefined,
    '',
    'bytes',
    'bytes=',
    'bytes=,',
    'bytes=-',
    'bytes=a-b',
    'bytes=1-2-3',
    'bytes=1',
    'bytes=+1-2',
    'bytes=0x1-2',
    'bytes=1.5-2',
    'bytes=1 -2',
    'bytes=1-2;3-4',
    'items=0-5',
    ' bytes=0-5',
    'bytes =0-5',
    'bytes=0-5,x',
  ]
  for (const header of headers) t.same(plan(header, 2048), WHOLE, String(header))
  t.end()
})

test('a Range as long as a head may be is read in no time, whatever it repeats', (t) => {
  const before = process.threadCpuUsage()
  for (const piece of [' ', '\t', ', ', '1-', '- ', '1 -', '1-2 ', ' ,\t']) {
    for (const start of ['bytes=', 'bytes=1', 'bytes=0-1,']) {
      parseRange(`${start}${piece.repeat(60_000 / piece.length)}x`)
    }
  }
  const { user, system } = process.threadCpuUsage(before)
  // Some milliseconds; where it is quadratic a single one of them takes seconds.
  t.ok(user + system < 1e6, `${user + system} µs`)
  t.end()
})

test('an empty blob is always given whole', (t) => {
  for (const header of ['bytes=0-', 'bytes=0-0', 'bytes=-1'])
    t.same(plan(header, 0), { kind: 'whole' }, header)
  t.end()
})

test('several ranges keep their order and are not joined', (t) => {
  t.same(plan('bytes=10-19,0-4,-2', 100), {
    kind: 'multipart',
    ranges: [
      { start: 10, end: 20 },
      { start: 0, end: 5 },
      { start: 98, end: 100 },
    ],
  })
  t.same(plan('bytes=0-4,200-300', 100), { kind: 'multipart', ranges: [{ start: 0, end: 5 }] })
  t.same(plan('bytes=200-300,400-', 100), UNSATISFIABLE)
  t.end()
})

test('more than 1024 parts, or more bytes than the blob has, get the whole blob', (t) => {
  const parts = (count: number): string =>
    `bytes=${Array.from({ length: count }, (_, at) => `${at}-${at}`).join(',')}`
  t.equal(plan(parts(1024), 4096).kind, 'multipart')
  t.same(plan(parts(1025), 4096), WHOLE)
  t.same(plan('bytes=0-99,0-0', 100), WHOLE)
  t.equal(plan('bytes=0-98,0-0', 100).kind, 'multipart')
  t.end()
})

test('only an open range from the first byte is known to want all', (t) => {
  const all = (header: string): boolean => wantsAll(parseRange(header) ?? [])
  t.ok(all('bytes=0-'))
  for (const header of ['bytes=1-', 'bytes=0-5', 'bytes=-5', 'bytes=0-,0-', 'nonsense'])
    t.notOk(all(header), header)
  t.end()
})

test('no header makes a plan that leaves the blob, and a plan survives being written down', (t) => {
  const number = fc.oneof(fc.nat(300), fc.constant(''), fc.bigInt({ min: 0n, max: 10n ** 30n })).map(String)
  const spec = fc.tuple(number, number).map((pair) => pair.join('-'))
  const header = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.array(spec, { minLength: 1, maxLength: 5 }).map((all) => `bytes=${all.join(',')}`),
    },
    fc.string({ unit: 'binary' }),
    fc.string().map((text) => `bytes=${text}`),
  )
  fc.assert(
    fc.property(header, fc.nat(256), (text, size) => {
      const found = plan(text, size)
      const ranges = found.kind === 'single' ? [found.range] : found.kind === 'multipart' ? found.ranges : []
      const inside = ranges.every(({ start, end }) => 0 <= start && start < end && end <= size)
      const bytes = ranges.reduce((sum, { start, end }) => sum + end - start, 0)
      const again = ranges.map(({ start, end }) => `${start}-${end - 1}`).join(',')
      const same =
        found.kind === 'single'
          ? JSON.stringify(plan(`bytes=${again}`, size)) === JSON.stringify(found)
          : true
      return inside && bytes <= size && same
    }),
    { numRuns: 3000 },
  )
  t.equal(contentRange({ start: 0, end: 1 }, 10), 'bytes 0-0/10')
  t.end()
})

test('If-None-Match knows quotes, weakness, lists and the star', (t) => {
  const digest = digestOf(Buffer.from('a'))
  const other = digestOf(Buffer.from('b'))
  for (const header of [
    `"${digest}"`,
    digest,
    `W/"${digest}"`,
    '*',
    `"${other}", "${digest}"`,
    ` ${other} ,${digest}`,
  ]) {
    t.ok(matchesNone(header, digest), header)
  }
  for (const header of [undefined, '', `"${other}"`, `"${digest}`, `"x${digest}"`, '"*"']) {
    t.notOk(matchesNone(header, digest), String(header))
  }
  t.end()
})

test('If-Range is strong, and a date is never right', (t) => {
  const digest = digestOf(Buffer.from('a'))
  for (const header of [undefined, `"${digest}"`, digest])
    t.ok(rangeStillValid(header, digest), String(header))
  for (const header of ['', `W/"${digest}"`, '"x"', 'Wed, 21 Oct 2015 07:28:00 GMT', '*']) {
    t.notOk(rangeStillValid(header, digest), header)
  }
  t.end()
})
