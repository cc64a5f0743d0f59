/** Commands and their answers over the control socket, in one process. */
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test, type Test } from 'tap'
import { connectToServer } from '../../../src/admin/control/client.ts'
import type { Operations } from '../../../src/admin/operations.ts'
import { openControl } from '../../../src/admin/control/server.ts'
import { OperatorError } from '../../../src/base/operator-error.ts'
import { createLog } from '../../../src/telemetry/log.ts'
import { eventually } from '../../support/app.ts'
import { shortDir } from '../../support/programs.ts'
import { standstill } from '../../support/stalled.ts'

const NEVER = new AbortController().signal
type Gc = (args: { readonly dryRun: boolean }, signal: AbortSignal) => AsyncGenerator

/** A control socket whose `gc` is that, with both its ends. */
async function control(t: Test, gc: Gc, root = shortDir(t)) {
  const lines: Record<string, unknown>[] = []
  const log = createLog({
    level: 'debug',
    write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>),
  })
  const server = await openControl({ root, log, operations: { gc } as unknown as Operations })
  t.teardown(() => server[Symbol.asyncDispose]())
  const operations = (await connectToServer(root, NEVER))!
  return { server, operations, lines, root, socket: join(root, 'control.sock') }
}

async function all(events: AsyncIterable<unknown>): Promise<unknown[]> {
  const list: unknown[] = []
  for await (const event of events) list.push(event)
  return list
}

test('events come in their order, as they were', async (t) => {
  const { operations, lines } = await control(t, async function* ({ dryRun }) {
    yield { dryRun }
    yield { text: 'two\nlines, and “more”', number: 1.5 }
  })
  t.same(await all(operations.gc({ dryRun: true }, NEVER)), [
    { dryRun: true },
    { text: 'two\nlines, and “more”', number: 1.5 },
  ])
  t.match(lines.at(-1), { msg: 'command', operation: 'gc', dryRun: true, end: 'done' })
})

test('a refusal is told in its words, also after events; it is no failure of ours', async (t) => {
  const { operations, lines } = await control(t, async function* () {
    yield 1
    throw new OperatorError('it is in use')
  })
  await t.rejects(all(operations.gc({ dryRun: true }, NEVER)), {
    name: 'OperatorError',
    message: 'it is in use',
  })
  t.notOk(lines.some(({ level }) => level === 'error'))
})

test('a failure is told, and logged with its stack', async (t) => {
  const { operations, lines } = await control(t, async function* () {
    yield 1
    throw new TypeError('not a function')
  })
  await t.rejects(all(operations.gc({ dryRun: true }, NEVER)), /failed by process \d+: not a function/)
  t.match(
    lines.find(({ level }) => level === 'error'),
    { operation: 'gc', err: { type: 'TypeError', stack: /server\.test/ } },
  )
})

/** Goes on until it is aborted, and tells why it was. */
function endless(): { gc: Gc; ended: Promise<unknown> } {
  const { promise: ended, resolve } = Promise.withResolvers<unknown>()
  return {
    ended,
    async *gc(_, signal) {
      try {
        yield 'begun'
        await new Promise((_, reject) =>
          signal.addEventListener('abort', () => reject(signal.reason as Error)),
        )
      } catch (error) {
        resolve(error)
        throw error
      }
    },
  }
}

test('who leaves, or presses Ctrl-C, ends the operation over there', async (t) => {
  for (const how of ['leave', 'abort']) {
    const { gc, ended } = endless()
    const { operations, lines } = await control(t, gc)
    const pressed = new AbortController()
    const events = operations.gc({ dryRun: true }, pressed.signal)[Symbol.asyncIterator]()
    await events.next()
    if (how === 'leave') await events.return?.()
    else {
      const next = t.rejects(events.next(), { message: 'SIGINT' })
      pressed.abort(new Error('SIGINT'))
      await next
    }
    t.match(await ended, { message: 'the client has gone' })
    await eventually('it is logged', () => lines.some(({ end }) => end === 'abandoned'))
  }
})

test('a server that stops ends what runs first, and says so to whoever waits for it', async (t) => {
  const { gc, ended } = endless()
  const { operations, server, socket } = await control(t, gc)
  const events = operations.gc({ dryRun: true }, NEVER)[Symbol.asyncIterator]()
  await events.next()
  const rest = t.rejects(events.next(), /stopped by process \d+: the server is stopping/)
  await server[Symbol.asyncDispose]()
  t.match(await ended, { message: 'the server is stopping' })
  await rest
  t.notOk(existsSync(socket))
})

test('who does not read holds the operation back, and nothing piles up', async (t) => {
  let made = 0
  const { operations } = await control(t, async function* (_, signal) {
    for (; !signal.aborted; made++) yield 'x'.repeat(64 * 1024)
  })
  const events = operations.gc({ dryRun: true }, NEVER)[Symbol.asyncIterator]()
  await events.next()
  await standstill(() => made)
  t.ok(made < 200, `${made} events of 64 KiB`)
  await events.return?.()
})

test('only we may connect, and nothing but the socket is left of its making', async (t) => {
  const { root, socket } = await control(t, endless().gc)
  t.ok(lstatSync(socket).isSocket())
  t.equal(lstatSync(socket).mode & 0o777, 0o600)
  t.same(readdirSync(root), ['control.sock'])
})

test('a socket that nobody listens on any more is nobody, and is replaced; so is what a crash left half made', async (t) => {
  const root = shortDir(t)
  const crashed = createServer()
  await new Promise<void>((resolve) => crashed.listen(join(root, 'other.sock'), resolve))
  renameSync(join(root, 'other.sock'), join(root, 'control.sock'))
  await new Promise((resolve) => crashed.close(resolve))
  mkdirSync(join(root, 'control.new'))
  writeFileSync(join(root, 'control.new/control.sock'), '')
  chmodSync(join(root, 'control.new'), 0o777)
  t.ok(existsSync(join(root, 'control.sock')))
  t.equal(await connectToServer(root, NEVER), undefined)
  const { operations } = await control(
    t,
    async function* () {
      yield 'here'
    },
    root,
  )
  t.same(await all(operations.gc({ dryRun: true }, NEVER)), ['here'])
  t.same(readdirSync(root), ['control.sock'])
})

test('where there is no folder, or no socket, there is nobody', async (t) => {
  t.equal(await connectToServer(t.testdir(), NEVER), undefined)
  t.equal(await connectToServer(join(t.testdir(), 'none'), NEVER), undefined)
})

test(
  'a folder whose path is longer than a socket may have',
  { skip: !existsSync('/proc/self/fd') },
  async (t) => {
    const root = join(t.testdir(), 'a'.repeat(100), 'é'.repeat(50))
    mkdirSync(root, { recursive: true })
    const { operations, server, socket } = await control(
      t,
      async function* () {
        yield 'here'
      },
      root,
    )
    t.same(await all(operations.gc({ dryRun: true }, NEVER)), ['here'])
    t.equal(lstatSync(socket).mode & 0o777, 0o600)
    await server[Symbol.asyncDispose]()
    t.same(readdirSync(root), [])
  },
)

test('a folder that takes no socket is no reason not to serve', async (t) => {
  const lines: string[] = []
  const log = createLog({ level: 'info', write: (line) => void lines.push(line) })
  const root = join(t.testdir({ file: '' }), 'file')
  const server = await openControl({ root, log, operations: {} as Operations })
  await server[Symbol.asyncDispose]()
  t.match(lines[0], /"level":"warn".*no control socket/)
})

test('what another version says is refused in words', async (t) => {
  const { socket: socketPath } = await control(t, endless().gc)
  const send = (method: string, path: string, body = ''): Promise<string> =>
    new Promise((resolve, reject) => {
      const asking = request({ socketPath, method, path }, (response) => {
        let text = `${response.statusCode} `
        response
          .setEncoding('utf8')
          .on('data', (part: string) => (text += part))
          .on('end', () => resolve(text))
      })
      asking.on('error', reject).end(body)
    })
  t.match(await send('POST', '/dance', '{}'), /^404 .*does not know the command dance/)
  t.match(await send('POST', '/constructor', '{}'), /^404/)
  t.match(await send('DELETE', '/gc'), /^404/)
  for (const body of ['', '{', '7', 'null', JSON.stringify({ a: 'x'.repeat(100_000) })]) {
    t.match(await send('POST', '/gc', body), /^400 .*not a JSON object/)
  }
})

test('another user cannot connect', { skip: process.getuid?.() !== 0 && 'needs root' }, async (t) => {
  const { root, socket } = await control(t, endless().gc)
  chmodSync(root, 0o755)
  // The program itself may lie where nobody else comes to.
  const connect = `process.setgid(65534); process.setuid(65534); require('node:net').connect(${JSON.stringify(socket)})
    .on('error', ({ code }) => console.log(code)).on('connect', function () { console.log('in'); this.destroy() })`
  const asNobody = async (): Promise<string> => {
    const child = spawn(process.execPath, ['-e', connect], { cwd: '/', env: {} })
    t.teardown(() => child.kill())
    return text(child.stdout)
  }
  t.equal(await asNobody(), 'EACCES\n')
  chmodSync(socket, 0o666)
  t.equal(await asNobody(), 'in\n', 'it is the mode that keeps him out')
})
