/**
 * Loaded into a process whose memory is to be measured: at SIGUSR2 it gives up what nobody holds any more, in V8's
 * heap and in malloc's. What is still there is held by somebody.
 */
import { dlopen } from 'node:ffi'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as (options: Record<string, string>) => void
// An ordinary collection keeps the pages of what is gone for eight seconds, and code that was not run lately for a few
// collections more: after a busy time a fifth of the resident set. This one gives them back.
const collect = (): void => gc({ type: 'major', execution: 'sync', flavor: 'last-resort' })
const { functions } = dlopen(null, { malloc_trim: { return: 'int32', arguments: ['uint64'] } })

process.on('SIGUSR2', () => {
  // Twice: what a finalizer lets go of is garbage only then.
  collect()
  setImmediate(() => {
    collect()
    functions['malloc_trim'](0n)
    process.stdout.write(`${JSON.stringify({ level: 'debug', msg: 'garbage collected' })}\n`)
  })
})
