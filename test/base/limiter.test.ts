import { test } from 'tap'
import { Limiter } from '../../src/base/limiter.ts'

test('no more than its width are inside, whatever fails', async (t) => {
  const gate = new Limiter(3)
  let inside = 0
  let most = 0
  const results = await Promise.allSettled(
    Array.from({ length: 20 }, (_, i) =>
      gate.run(async () => {
        most = Math.max(most, ++inside)
        await new Promise((resolve) => setImmediate(resolve))
        inside--
        if (i % 3 === 0) throw new Error('failed')
        return i
      }),
    ),
  )
  t.equal(most, 3)
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, 13)
  t.equal(await gate.run(async () => 'free again'), 'free again')
})
