/** Digests, names, tags and references: what is accepted is the grammar, and nothing else is. */
import fc from 'fast-check'
import { test } from 'tap'
import { algorithmOf, digestFromHex, digestOf, hexOf, isDigest, parseDigest } from '../../src/oci/digest.ts'
import { OciError } from '../../src/oci/errors.ts'

test('a digest is an algorithm we can verify and exactly its hex', (t) => {
  const hex = 'a'.repeat(64)
  t.equal(parseDigest(`sha256:${hex}`), `sha256:${hex}`)
  t.equal(parseDigest(`sha512:${hex}${hex}`), `sha512:${hex}${hex}`)
  const wrong = [
    '',
    'sha256:',
    `sha256:${hex}a`,
    `sha256:${hex.slice(1)}`,
    `sha256:${hex.toUpperCase()}`,
    `sha256:${hex}\n`,
    ` sha256:${hex}`,
    `sha512:${hex}`,
    `SHA256:${hex}`,
    `blake3:${hex}`,
    `sha256-${hex}`,
    `sha256:${'g'.repeat(64)}`,
    `sha256:../../${hex.slice(6)}`,
  ]
  for (const text of wrong) {
    t.throws(() => parseDigest(text), { code: 'DIGEST_INVALID', status: 400 }, text)
    t.notOk(isDigest(text), text)
  }
  t.end()
})

test('the digest of bytes takes itself apart again', (t) => {
  t.equal(
    digestOf(Buffer.alloc(0)),
    'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  )
  fc.assert(
    fc.property(
      fc.uint8Array(),
      fc.constantFrom('sha256' as const, 'sha512' as const),
      (bytes, algorithm) => {
        const digest = digestOf(bytes, algorithm)
        return (
          algorithmOf(digest) === algorithm &&
          digestFromHex(algorithm, hexOf(digest)) === digest &&
          parseDigest(digest) === digest
        )
      },
    ),
  )
  t.end()
})

test('no text makes the digest parser throw anything but its error', (t) => {
  const nearly = fc
    .tuple(fc.constantFrom('sha256', 'sha512', 'md5'), fc.string())
    .map((parts) => parts.join(':'))
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), nearly), (text) => {
      try {
        return /^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$/.test(parseDigest(text))
      } catch (error) {
        return error instanceof OciError && error.code === 'DIGEST_INVALID'
      }
    }),
  )
  t.end()
})
