/** What caches keep in memory: what they reckon with, and nothing that belonged to the request that brought it. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'tap'
import { UpstreamError, withoutFrames } from '../../../src/upstream/upstream.ts'
import { eventually, pull, simulate, startMirror } from '../../support/app.ts'
import { image } from '../../support/images.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** As large as what a connection holds; its method is a frame of the error. */
class Question {
  readonly held = new Array(1_000).fill(0)

  fail(): UpstreamError {
    try {
      return this.#refuse()
    } catch (cause) {
      return new UpstreamError('unreachable', 'quay.io', 'no answer', { cause })
    }
  }

  #refuse(): never {
    throw new Error('connection reset')
  }
}

function failed(): { error: UpstreamError; question: WeakRef<Question> } {
  const question = new Question()
  return { error: withoutFrames(question.fail()), question: new WeakRef(question) }
}

test('an error that is remembered lets go of what its frames belong to, and still tells where it arose', async (t) => {
  const { error, question } = failed()
  // A weak reference holds until the end of the turn.
  await new Promise(setImmediate)
  collect()
  t.equal(question.deref(), undefined)
  t.match(error.stack, 'Question.fail')
  t.match((error.cause as Error).stack, 'refuse')
})

test('a short list that is kept takes no more memory than it has bytes', async (t) => {
  const upstream = await simulate(t)
  upstream.addImage('library/app', '1', image({ layers: [10] }))
  const { url } = await startMirror(t, upstream)
  const list = async (from: number, to: number): Promise<void> => {
    for (let at = from; at < to; at += 1) {
      const subject = `sha256:${at.toString(16).padStart(64, '0')}`
      t.equal((await pull(`${url}/v2/library/app/referrers/${subject}`)).status, 200)
      // Whatever else is read meanwhile, so that the next list is cut from another slab.
      for (let filled = 0; filled < Buffer.poolSize; filled += 4_000) Buffer.allocUnsafe(4_000)
    }
  }
  await list(0, 20)
  collect()
  const before = process.memoryUsage().arrayBuffers
  await list(20, 320)
  // What was collected is given back by a thread of its own.
  await eventually('300 lists take less than 8 KiB each', () => {
    collect()
    return process.memoryUsage().arrayBuffers - before < 300 * 8 * 1024
  })
})
