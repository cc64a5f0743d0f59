/** Reading of a document only what is asked for. */
import fc from 'fast-check'
import { test } from 'tap'
import { JsonError, parseJsonObject, type Selection } from '../../src/oci/json.ts'

const ROOM = 1000

function read(text: string | Uint8Array, selection: Selection, maxItems = ROOM): unknown {
  return parseJsonObject(Buffer.from(text as string), maxItems, selection)
}

/** All of a value, as deep as it goes. */
function all(value: unknown): Selection {
  if (typeof value !== 'object' || value === null) return 'scalar'
  if (Array.isArray(value)) return { each: 'scalar' }
  return { members: Object.fromEntries(Object.entries(value).map(([name, it]) => [name, all(it)])) }
}

test('whatever the platform parses is read the same, and whatever it refuses is refused', (t) => {
  const value = fc.dictionary(fc.string({ unit: 'binary', maxLength: 20 }), fc.jsonValue({ maxDepth: 3 }))
  fc.assert(
    fc.property(value, fc.nat({ max: 3 }), (document, indent) => {
      const text = JSON.stringify(document, null, indent)
      // What is in an object of a list differs from one element to the next: only lists of scalars are compared.
      const parsed = JSON.parse(text, (_name, it: unknown) =>
        Array.isArray(it) ? it.filter((each) => typeof each !== 'object' || each === null) : it,
      ) as object
      const again = JSON.stringify(parsed)
      t.equal(JSON.stringify(read(again, all(parsed), Infinity)), JSON.stringify(JSON.parse(again)))
      t.same(read(text, 'scalar', Infinity), {})
    }),
    { numRuns: 300 },
  )
  const broken = fc.tuple(
    value,
    fc.nat(),
    fc.integer({ min: 0, max: 255 }),
    fc.constantFrom('cut', 'set', 'drop'),
  )
  fc.assert(
    fc.property(broken, ([document, where, byte, how]) => {
      const bytes = Buffer.from(JSON.stringify({ document, list: [1.5e-3, -0, true, null, '\u00e9\n'] }))
      const at = where % bytes.length
      if (how === 'set') bytes[at] = byte
      const spoilt = how === 'cut' ? bytes.subarray(0, at) : bytes
      const text = how === 'drop' ? Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]) : spoilt
      let expected: unknown
      try {
        expected = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text))
      } catch {
        // It is none.
      }
      const isOne = typeof expected === 'object' && expected !== null && !Array.isArray(expected)
      try {
        read(text, 'scalar', Infinity)
        return isOne
      } catch (error) {
        return error instanceof JsonError && !isOne
      }
    }),
    { numRuns: 3000 },
  )
  t.end()
})

test('only what is selected is read', (t) => {
  const text = '{"a":{"b":1,"c":[1,2,3],"d":"x"},"e":{"1":"one","2":{"deep":[]},"3":"three"},"f":[{"g":7},8]}'
  t.same(read(text, { members: { a: { members: { c: { each: 'scalar', most: 2 } } } } }), {
    a: { c: [1, 2] },
  })
  t.same(read(text, { members: { e: { any: 'scalar', most: 2 } } }), { e: { 1: 'one', 2: {} } })
  t.same(read(text, { members: { f: { each: { members: { g: 'scalar' } } } } }), { f: [{ g: 7 }, 8] })
  t.same(
    read(text, { members: { f: 'scalar', a: { each: 'scalar' } } }),
    { a: {}, f: [] },
    'of which kind it is',
  )
  t.same(read(text, { members: { nothing: 'scalar' } }), {})
  t.end()
})

test('names and texts that are made to hurt', (t) => {
  const proto = read('{"__proto__":{"x":1},"a":1,"a":2}', { any: 'scalar', most: 9 }) as object
  t.same(Object.getOwnPropertyNames(proto), ['__proto__', 'a'])
  t.equal(Object.getPrototypeOf(proto), Object.prototype)
  t.same(read('{"a":1,"a":2}', { members: { a: 'scalar' } }), { a: 2 }, 'the last of two counts')
  t.same(read('{"\\u0061":1}', { members: { a: 'scalar' } }), { a: 1 })
  t.same(read('\ufeff {"a":"\\ud800"} ', { members: { a: 'scalar' } }), { a: '\ud800' })
  const long = 'x'.repeat(2100)
  t.same(read(`{"a":"${long}","${long}":1}`, { any: 'scalar', most: 9 }), { a: undefined })
  t.same(read(`{"a":"${long}"}`, { any: 'text', most: 9 }), { a: long })
  t.same(read(`{"a":"${'x'.repeat(70_000)}"}`, { any: 'text', most: 9 }), { a: undefined })
  t.throws(() => read(`{"a":${'['.repeat(200)}${']'.repeat(200)}}`, 'scalar'), {
    message: 'nested too deeply',
  })
  t.throws(() => read(`{"a":[0${',0'.repeat(1001)}]}`, 'scalar'), { message: 'too many members' })
  for (const text of [
    '{"a":01}',
    '{"a":1.}',
    '{"a":.5}',
    '{"a":-}',
    '{"a":1e}',
    '{"a":NaN}',
    '{,}',
    '{"a":1,}',
    '[]',
    '{"a":"\t"}',
    '{"a":"\\x"}',
    '{"a":"\\u12g4"}',
    '{a:1}',
    "{'a':1}",
    '{"a" 1}',
    '{"a":tru}',
    '',
  ]) {
    t.throws(() => read(text, 'scalar'), { name: 'JsonError' }, text)
  }
  t.end()
})

test('elements are handed over as they come, and not kept', (t) => {
  const taken: unknown[] = []
  const each = { members: { a: 'scalar' } } as const
  const take = (element: unknown): void => void taken.push(element)
  const found = read('{"list":[{"a":1,"b":2},[],3],"none":[]}', { members: { list: { each, take } } })
  t.same([found, taken], [{ list: [] }, [{ a: 1 }, [], 3]])
  const stop = new Error('enough')
  const refuse = (): void => {
    throw stop
  }
  t.throws(() => read('{"list":[1,2]}', { members: { list: { each: 'scalar', take: refuse } } }), stop)
  t.end()
})
