import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { releaseBuffers } from '../../../src/storage/ingest/release-buffers.ts'

const MiB = 2 ** 20

test('a buffer that is all of its memory is empty when it has passed through; a part of one stays', (t) => {
  const [whole, shared] = [Buffer.allocUnsafeSlow(8000), Buffer.allocUnsafeSlow(8000).fill(7)]
  const empty = Buffer.alloc(0)
  releaseBuffers([whole, shared.subarray(0, 4000), shared.subarray(4000), Buffer.allocUnsafe(10), empty])
  t.equal(whole.length, 0)
  t.equal(whole.buffer.byteLength, 0, 'and its memory is gone')
  t.ok(shared.equals(Buffer.alloc(8000, 7)), 'somebody may still need the other part')
  const { detached } = empty.buffer as { detached?: boolean }
  t.equal(detached, false, 'an empty one is no gain, and may be what somebody always uses for nothing')
  t.end()
})

test('what cannot be emptied is collected every few MiB', (t) => {
  const asked: unknown[] = []
  const { gc } = globalThis
  t.teardown(() => Object.assign(globalThis, { gc }))
  Object.assign(globalThis, { gc: (options: unknown) => asked.push(options) })
  const part = Buffer.alloc(MiB + 1).subarray(1)
  for (let count = 0; count < 25; count++) releaseBuffers([part])
  t.ok(asked.length >= 5 && asked.length <= 7, `${asked.length} times for 25 MiB`)
  t.strictSame(asked[0], { type: 'minor' }, 'only the young generation')
  for (let count = 0; count < 25; count++) releaseBuffers([Buffer.allocUnsafeSlow(MiB)])
  t.ok(asked.length <= 7, 'and never for what was emptied')
  t.end()
})

test('npm start lets it ask', (t) => {
  const { scripts } = JSON.parse(
    readFileSync(join(import.meta.dirname, '../../../package.json'), 'utf8'),
  ) as {
    scripts: { start: string }
  }
  t.match(scripts.start, ' --expose-gc ')
  t.end()
})
