import fc from 'fast-check'
import { test } from 'tap'
import { bearerOf, parseChallenges } from '../../../src/upstream/login/challenge.ts'

const hub =
  'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"'
const parsed = {
  realm: 'https://auth.docker.io/token',
  service: 'registry.docker.io',
  scope: 'repository:a/b:pull',
  error: undefined,
}

void test('the Bearer challenge is found, however it is written', (t) => {
  for (const header of [
    hub,
    hub.replace('Bearer', 'bEARER'),
    hub.replaceAll(',', ' , '),
    hub.replaceAll('=', ' = '),
    hub.replace('realm', 'REALM'),
    hub.replace('service="registry.docker.io"', 'service=registry.docker.io'),
    `Basic realm="one, two", ${hub}`,
    `Basic realm="quoted \\" , Bearer realm=\\"evil\\"", ${hub}`,
    `Negotiate, ${hub}`,
    `Negotiate YWJj==, ${hub}`,
    `NTLM abc+/def, ${hub}`,
    `,, ${hub},`,
    `${hub}, Bearer realm="https://second.example/"`,
    ['Basic realm="x"', hub],
  ]) {
    t.same(bearerOf(parseChallenges(header)), parsed, String(header))
  }
  t.end()
})

void test('what the parameters say is taken as it is', (t) => {
  const found = bearerOf(
    parseChallenges('Bearer realm="r",scope="",error="insufficient_scope",service="a\\"b"'),
  )
  t.same(found, { realm: 'r', service: 'a"b', scope: '', error: 'insufficient_scope' })
  const twice = bearerOf(parseChallenges('Bearer realm="first",realm="second"'))
  t.equal(twice?.realm, 'first')
  t.end()
})

void test('schemes come in order, without a Bearer there is none', (t) => {
  const schemes = (header: string) => parseChallenges(header).map(({ scheme }) => scheme)
  t.same(schemes('Basic realm="a", Digest qop="auth", nonce="b"'), ['basic', 'digest'])
  t.same(schemes('Negotiate'), ['negotiate'])
  t.same(schemes('Negotiate abc, Basic realm="x"'), ['negotiate', 'basic'])
  for (const header of [
    undefined,
    '',
    'Basic realm="x"',
    'Bearer',
    'Bearer scope="x"',
    'realm="x"',
    '"',
    '=,=',
  ]) {
    t.equal(bearerOf(parseChallenges(header)), undefined)
  }
  t.end()
})

void test('no input makes the parser throw, or slow', (t) => {
  const piece = fc.oneof(
    fc.constantFrom('Bearer', 'Basic', 'realm', 'scope', '=', ',', ' ', '"', '\\', '\t', '==', '__proto__'),
    fc.string({ maxLength: 5 }),
    fc.string({ unit: 'binary', maxLength: 3 }),
  )
  const header = fc.array(piece, { maxLength: 60 }).map((pieces) => pieces.join(''))
  fc.assert(
    fc.property(fc.oneof(header, fc.array(header, { maxLength: 4 })), (it) => {
      for (const { scheme, parameters } of parseChallenges(it)) {
        if (scheme !== scheme.toLowerCase() || scheme === '') return false
        for (const name of parameters.keys()) if (name !== name.toLowerCase()) return false
      }
      return true
    }),
    { numRuns: 3000 },
  )
  // Pathological for an expression that backtracks.
  for (const it of ['"', '\\', 'a', 'a=', 'a="', ' ', ',']) parseChallenges(`Bearer ${it.repeat(60_000)}`)
  t.end()
})

void test('a header as long as one may be is read in no time, whatever it repeats', (t) => {
  const part = fc.array(fc.constantFrom('a', '=', '"', '\\', ',', ' ', '\t', 'Bearer ', 'é', '\0'), {
    minLength: 1,
    maxLength: 8,
  })
  let longest = 0
  fc.assert(
    fc.property(part, fc.constantFrom('', 'Bearer realm="'), (pieces, before) => {
      const piece = pieces.join('')
      const header = before + piece.repeat(Math.ceil(65_536 / piece.length))
      const startedAt = performance.now()
      bearerOf(parseChallenges([header, hub]))
      longest = Math.max(longest, performance.now() - startedAt)
    }),
    { numRuns: 200 },
  )
  // A millisecond or three; quadratic work on so much would take minutes.
  t.ok(longest < 2000, `${longest} ms`)
  t.end()
})

void test('what is written properly is read back', (t) => {
  const token = fc.stringMatching(/^[a-z][a-z0-9-]{0,8}$/)
  const value = fc.string({ maxLength: 20 })
  const challenges = fc.array(
    fc.record({
      scheme: token,
      parameters: fc.uniqueArray(fc.tuple(token, value), {
        minLength: 1,
        maxLength: 4,
        selector: ([name]) => name,
      }),
    }),
    { minLength: 1, maxLength: 4 },
  )
  fc.assert(
    fc.property(challenges, (written) => {
      const header = written
        .map(({ scheme, parameters }) => {
          const quoted = parameters.map(([name, it]) => `${name}="${it.replace(/["\\]/g, '\\$&')}"`)
          return `${scheme} ${quoted.join(', ')}`
        })
        .join(', ')
      const read = parseChallenges(header).map(({ scheme, parameters }) => ({
        scheme,
        parameters: [...parameters],
      }))
      return JSON.stringify(read) === JSON.stringify(written)
    }),
  )
  t.end()
})
