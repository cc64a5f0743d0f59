/** Repository names, tags and references. */
import fc from 'fast-check'
import { test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { OciError } from '../../src/oci/errors.ts'
import { isDigestReference, parseReference, parseRepositoryName, parseTag } from '../../src/oci/reference.ts'

test('repository names follow the grammar of the specification', (t) => {
  const right = [
    'a',
    'library/alpine',
    'a.b/c_d/e__f/g-h/i---j',
    '0/1',
    'blobs/uploads',
    'manifests',
    'a'.repeat(255),
  ]
  for (const name of right) t.equal(parseRepositoryName(name), name)
  const wrong = [
    '',
    '/',
    'a/',
    '/a',
    'a//b',
    'A',
    'a/B',
    '.',
    '..',
    'a/../b',
    'a/./b',
    '.a',
    'a.',
    'a..b',
    'a___b',
    'a_',
    '-a',
    'a-',
    'a._b',
    'a b',
    'a\n',
    'a\0',
    'ä',
    'a%2fb',
    'a\\b',
    'a:b',
    'a@b',
    'a'.repeat(256),
  ]
  for (const name of wrong)
    t.throws(() => parseRepositoryName(name), { code: 'NAME_INVALID' }, JSON.stringify(name))
  t.end()
})

test('tags follow the grammar of the specification', (t) => {
  for (const tag of ['latest', '_', '1.2.3', 'A-b_c.d', 'x'.repeat(128)]) t.equal(parseTag(tag), tag)
  for (const tag of ['', '.', '..', '.a', '-a', 'a/b', 'a:b', 'a b', 'a\n', 'ä', 'x'.repeat(129)]) {
    t.throws(() => parseTag(tag), { code: 'TAG_INVALID' }, JSON.stringify(tag))
  }
  t.end()
})

test('a colon makes a reference a digest', (t) => {
  const digest = digestOf(Buffer.from('x'))
  t.ok(isDigestReference(parseReference(digest)))
  t.notOk(isDigestReference(parseReference('latest')))
  t.throws(() => parseReference('sha256:baddigest'), { code: 'DIGEST_INVALID' })
  t.throws(() => parseReference('a/b'), { code: 'TAG_INVALID' })
  t.end()
})

test('nothing accepted could leave a folder or a line', (t) => {
  const piece = fc.constantFrom('a', 'B', '0', '.', '_', '-', '/', ':', '%', '\\', '\0', '\n', ' ', 'é', '@')
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(piece, { maxLength: 300 }).map((all) => all.join('')),
  )
  for (const [parse, grammar] of [
    [parseRepositoryName, /^[a-z0-9._-]+(\/[a-z0-9._-]+)*$/],
    [parseReference, /^(\w[\w.-]{0,127}|sha(256|512):[0-9a-f]{64,128})$/],
  ] as const) {
    fc.assert(
      fc.property(text, (input) => {
        try {
          const value = parse(input)
          return (
            value === input &&
            grammar.test(value) &&
            !/(^|\/)\.{1,2}(\/|$)/.test(value) &&
            value.length <= 255
          )
        } catch (error) {
          return error instanceof OciError && error.status === 400
        }
      }),
      { numRuns: 2000 },
    )
  }
  t.end()
})

test('a name of a megabyte is refused at once', (t) => {
  t.throws(() => parseRepositoryName('a-'.repeat(500_000)), { code: 'NAME_INVALID' })
  t.end()
})
