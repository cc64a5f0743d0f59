/** `n`, `last` and the link to the next page. */
import fc from 'fast-check'
import { test } from 'tap'
import { OciError } from '../../src/oci/errors.ts'
import { nextLink, parsePage } from '../../src/oci/pagination.ts'

test('n is a number of results or nothing', (t) => {
  t.same(parsePage(new URLSearchParams('')), { n: undefined, last: undefined })
  t.same(parsePage(new URLSearchParams('n=0&last=')), { n: 0, last: '' })
  t.same(parsePage(new URLSearchParams('n=100&last=a%2Fb')), { n: 100, last: 'a/b' })
  for (const n of ['', '-1', '1.5', '1e3', '0x10', ' 1', 'all', '9'.repeat(30)]) {
    t.throws(
      () => parsePage(new URLSearchParams({ n })),
      { code: 'PAGINATION_NUMBER_INVALID', status: 400 },
      n,
    )
  }
  t.end()
})

test('no query makes it throw anything but its error', (t) => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      try {
        const { n } = parsePage(new URLSearchParams(text))
        return n === undefined || (Number.isSafeInteger(n) && n >= 0)
      } catch (error) {
        return error instanceof OciError
      }
    }),
  )
  t.end()
})

test('whatever a cursor holds, the link stays one link and comes back as it was', (t) => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.string({ minLength: 1 }), fc.string()), { maxLength: 4 }), (pairs) => {
      const query = new URLSearchParams(pairs)
      const link = nextLink('/v2/a/b/tags/list', query)
      const found = /^<(\/v2\/a\/b\/tags\/list)(?:\?([^<>\s"]*))?>; rel="next"$/.exec(link)
      return found !== null && new URLSearchParams(found[2] ?? '').toString() === query.toString()
    }),
  )
  t.end()
})
