/** A question upstream that takes too long is a failure of that upstream; a client that leaves is none. */
import { test } from 'tap'
import { withTimeLimit } from '../../src/cache/time-limit.ts'

const upstream = { key: 'up.test' }

/** Rejects when its limit is over; the timer of a limit alone does not keep the process going. */
function never(limit: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const awake = setTimeout(() => undefined, 60_000)
    limit.addEventListener('abort', () => {
      clearTimeout(awake)
      reject(limit.reason as Error)
    })
  })
}

test('what takes too long is an upstream that cannot be reached', async (t) => {
  const { signal } = new AbortController()
  const late = withTimeLimit(upstream, 5, 'too late', signal, never)
  await t.rejects(late, { failure: 'unreachable', upstream: 'up.test', message: /too late/ })
})

test('what comes in time, and what goes wrong, is handed on', async (t) => {
  const { signal } = new AbortController()
  t.equal(await withTimeLimit(upstream, 10_000, 'too late', signal, () => Promise.resolve(1)), 1)
  const wrong = new Error('wrong')
  await t.rejects(
    withTimeLimit(upstream, 10_000, 'too late', signal, () => Promise.reject(wrong)),
    wrong,
  )
})

test('a client that leaves ends its own wait', async (t) => {
  const client = new AbortController()
  const left = new Error('left')
  const waiting = withTimeLimit(upstream, 10_000, 'too late', client.signal, never)
  client.abort(left)
  await t.rejects(waiting, left)
})

test('what is late may be answered in another way, for a client or for nobody in particular', async (t) => {
  const { signal } = new AbortController()
  const expected = { failure: 'unreachable', upstream: 'up.test', message: /too late/ }
  for (const client of [signal, undefined]) {
    const late = await withTimeLimit<unknown>(upstream, 1, 'too late', client, never, (failure) => failure)
    t.match(late, expected)
  }
  const gone = AbortSignal.abort(new Error('gone'))
  const nothing = (): never => t.fail('asked for a client that has gone') as never
  await t.rejects(
    withTimeLimit(upstream, 60_000, 'too late', gone, (it) => Promise.reject(it.reason as Error), nothing),
    {
      message: 'gone',
    },
  )
})
