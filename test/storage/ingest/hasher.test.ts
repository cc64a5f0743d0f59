import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { nodeFiles } from '../../../src/storage/files/files.ts'
import { Hashers } from '../../../src/storage/ingest/hasher.ts'
import { OpenFile } from '../../../src/storage/files/open-file.ts'
import { KiB, MiB, randomBytes } from '../../support/stores.ts'

function hashers(t: Test, options: ConstructorParameters<typeof Hashers>[0] = {}): Hashers {
  const made = new Hashers({ threads: 1, ...options })
  t.teardown(() => made.close())
  return made
}

async function fileOf(t: Test, content: Buffer): Promise<OpenFile> {
  const name = path.join(t.testdirName, `file of ${content.length}`)
  mkdirSync(t.testdirName, { recursive: true })
  writeFileSync(name, content)
  const file = await OpenFile.open(nodeFiles, name, 'r')
  t.teardown(() => file[Symbol.dispose]())
  return file
}

function hex(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex')
}

test('a file is hashed as far as it is there, and then to its end', async (t) => {
  const content = randomBytes(10 * MiB)
  const job = hashers(t).start('sha256', await fileOf(t, content))
  job.advance(3 * MiB)
  await job.reached(3 * MiB)
  t.equal(job.hashed, 3 * MiB)
  await job.reached(3 * MiB + 5)
  t.equal(job.hashed, 3 * MiB + 5)
  t.equal(await job.finish(content.length), hex(content))
})

test('several files on one thread take turns', async (t) => {
  const pool = hashers(t)
  const large = randomBytes(64 * MiB)
  const small = randomBytes(100 * KiB)
  const largeFile = await fileOf(t, large)
  const smallFile = await fileOf(t, small)
  const order: string[] = []
  const slow = pool.start('sha256', largeFile).finish(large.length)
  const noted = slow.then(() => order.push('large'))
  t.equal(await pool.start('sha256', smallFile).finish(small.length), hex(small))
  order.push('small')
  await noted
  t.same(order, ['small', 'large'])
})

test('a file that is shorter than was said fails its own job only', async (t) => {
  const pool = hashers(t)
  const content = randomBytes(MiB)
  const file = await fileOf(t, content)
  const failing = pool.start('sha256', file)
  const good = pool.start('sha256', file)
  await Promise.all([
    t.rejects(failing.finish(content.length + 1), { message: /hashing failed/ }),
    t.resolveMatch(good.finish(content.length), hex(content)),
  ])
})

test('the descriptor is held until the thread has let go of it', async (t) => {
  const pool = hashers(t)
  const content = randomBytes(32 * MiB)
  let closed = 0
  const name = path.join(t.testdir(), 'file')
  writeFileSync(name, content)
  const files = {
    ...nodeFiles,
    close: async (file: number) => {
      closed++
      await nodeFiles.close(file)
    },
  }
  const finished = await OpenFile.open(files, name, 'r')
  const finishing = pool.start('sha256', finished).finish(content.length)
  finished[Symbol.dispose]()
  t.equal(closed, 0)
  t.equal(await finishing, hex(content))
  await finished.closed
  t.equal(closed, 1)

  const cancelled = await OpenFile.open(files, name, 'r')
  const job = pool.start('sha256', cancelled)
  const waiting = job.finish(content.length)
  job.cancel()
  job.cancel()
  cancelled[Symbol.dispose]()
  t.equal(closed, 1)
  await t.rejects(waiting, { message: 'hashing was given up' })
  await t.rejects(job.reached(1))
  await cancelled.closed
  t.equal(closed, 2)
})

test('a thread that dies fails its jobs, and the next job gets another', async (t) => {
  const folder = t.testdir({
    'worker.mjs': `
      import { parentPort } from 'node:worker_threads'
      parentPort.on('message', m => { if (m.type === 'finish') throw new Error('broken thread') })
    `,
  })
  const pool = hashers(t, { entry: new URL(`file://${folder}/worker.mjs`) })
  const content = randomBytes(10)
  const file = await fileOf(t, content)
  const first = pool.start('sha256', file)
  const second = pool.start('sha256', file)
  await Promise.all([
    t.rejects(first.finish(10), { message: /broken thread/ }),
    t.rejects(second.reached(5), { message: /broken thread/ }),
  ])
  await t.rejects(pool.start('sha256', file).finish(10), { message: /broken thread/ })
})

test('closing fails what still runs, and nothing starts after it', async (t) => {
  const pool = hashers(t)
  const content = randomBytes(64 * MiB)
  const file = await fileOf(t, content)
  const finishing = pool.start('sha256', file).finish(content.length)
  await Promise.all([pool.close(), t.rejects(finishing, { message: /hashing/ })])
  t.throws(() => pool.start('sha256', file))
})
