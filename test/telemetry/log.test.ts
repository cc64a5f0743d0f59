import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { test } from 'tap'
import { createLog } from '../../src/telemetry/log.ts'

function captured(readable = false) {
  const lines: string[] = []
  const write = (line: string): void => void lines.push(line)
  return { log: createLog({ level: 'info', pretty: readable, write }), lines }
}

test('a line is one JSON object with a named level, a time and the message', async (t) => {
  const { log, lines } = captured()
  log.info({ repo: 'library/nginx', bytes: 5 }, 'served')
  log.debug('not this one')
  t.equal(lines.length, 1)
  t.ok(lines[0]!.endsWith('}\n'))
  t.match(JSON.parse(lines[0]!), {
    level: 'info',
    time: /^\d{4}-.*Z$/,
    msg: 'served',
    repo: 'library/nginx',
    bytes: 5,
  })
})

test('secrets are struck out wherever they are', async (t) => {
  const { log, lines } = captured()
  const error = Object.assign(new Error('GET https://me:hunter2@proxy/ with Bearer hunter2hunter2'), {
    headers: { 'Proxy-Authorization': 'hunter2' },
    cause: new Error('Basic hunter2hunter2=='),
  })
  log.info({ authorization: 'hunter2', token: 'hunter2', password: 'hunter2', access_token: 'hunter2' }, 'a')
  log.info(
    { request: { headers: { Authorization: 'hunter2', cookie: 'hunter2', 'set-cookie': ['hunter2'] } } },
    'b',
  )
  log.info({ upstreams: [{ credentials: { username: 'me', password: 'hunter2' } }] }, 'c')
  log.warn({ err: error, url: 'http://me:hunter2@host/' }, 'd')
  log.error(error)
  log.child({ url: 'http://me:hunter2@host/' }).info({ nested: [[{ clientSecret: 'hunter2' }]] }, 'e')
  t.equal(lines.length, 6)
  t.notMatch(lines.join(''), /hunter2/)
  t.match(lines.join(''), /\[hidden\]/)
})

/** C1, and marks that turn the direction of a text; those of C0 are escaped in any JSON. */
const UNSEEN = [
  ...range(0x80, 0x9f),
  0x61c,
  0x200e,
  0x200f,
  ...range(0x2028, 0x202e),
  ...range(0x2066, 0x2069),
]

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, at) => first + at)
}

test('characters that a terminal acts upon are escaped, wherever they are, and mean the same', async (t) => {
  const { log, lines } = captured()
  const text = `a${String.fromCharCode(...UNSEEN)}b\u001b[2J\r ü 日本 \\u0085`
  log.info({ useragent: text, nested: [{ [text]: text }], err: new Error(text) }, text)
  log.child({ text }).warn('of a child')
  for (const line of lines) {
    t.notMatch(line.trimEnd(), /[^\x20-\x7eü日本]/u)
    t.match(line, 'ü 日本', 'what can be seen stays')
  }
  t.match(JSON.parse(lines[0]!), {
    useragent: text,
    nested: [{ [text]: text }],
    err: { message: text },
    msg: text,
  })
  t.match(JSON.parse(lines[1]!), { text })
})

test('for a person, too, with those of C0', async (t) => {
  const { log, lines } = captured(true)
  const text = `a${String.fromCharCode(...UNSEEN)}b\u001b[2J\r\b\u0007\u007f ü 日本 C:\\u001b \\\u0085`
  log.info({ useragent: text, nested: [{ text }], err: new Error(text) }, text)
  const all = lines.join('')
  t.notMatch(all, /[^\n\x20-\x7eü日本]/u)
  for (const shown of ['\\u0085', '\\u202e', '\\u001b[2J\\r', 'ü 日本', 'C:\\u001b'])
    t.ok(all.includes(shown), shown)
  t.match(all, /\n +at Test/, 'a stack has lines')
})

test('what is no secret stays', async (t) => {
  const { log, lines } = captured()
  const fields = {
    tokens: 3,
    path: '/v2/a@sha256:b',
    ref: 'basic',
    none: null,
    list: [1, 'x'],
    user: { name: 'me' },
  }
  log.info(fields, 'a')
  t.match(JSON.parse(lines[0]!), fields)
})

test('an error is logged with its type, message, stack and facts', async (t) => {
  const { log, lines } = captured()
  log.error({ err: Object.assign(new TypeError('broken'), { code: 'EIO' }) }, 'failed')
  t.match(JSON.parse(lines[0]!), {
    err: { type: 'TypeError', message: 'broken', code: 'EIO', stack: /log\.test/ },
  })
})

test('for a person the line is readable', async (t) => {
  const { log, lines } = captured(true)
  log.warn({ warning: 'mind the gap', password: 'hunter2' }, 'configuration')
  t.match(lines.join(''), /WARN.*: configuration\n.*warning: "mind the gap"/)
  t.notMatch(lines.join(''), /hunter2/)
})

test('lines that wait for others leave also when the process ends at once', async (t) => {
  const log = new URL('../../src/telemetry/log.ts', import.meta.url).href
  const script = `
    import { createLog } from ${JSON.stringify(log)}
    const log = createLog({ level: 'info' })
    for (let i = 0; i < 5; i++) log.info({ i }, 'line')
    setTimeout(() => {
      log.info({ i: 5 }, 'line')
      process.exit(1)
    })`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: 'pipe',
    timeout: 20_000,
  })
  const lines = (await text(child.stdout)).trimEnd().split('\n')
  // What was on its way may come behind what left in the end.
  t.same(lines.map((line) => (JSON.parse(line) as { i: number }).i).toSorted(), [0, 1, 2, 3, 4, 5])
})

test('of a burst of lines all are there, and in order, once they are flushed', async (t) => {
  const log = new URL('../../src/telemetry/log.ts', import.meta.url).href
  const script = `
    import { createLog, flushed } from ${JSON.stringify(log)}
    const log = createLog({ level: 'info' })
    for (let line = 0; line < 1000; line++) log.info({ line, text: 'x'.repeat(200) }, 'served')
    await flushed(log)
    process.exit(0)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: 'pipe',
    timeout: 20_000,
  })
  const lines = (await text(child.stdout)).trimEnd().split('\n')
  t.same(
    lines.map((line) => (JSON.parse(line) as { line: number }).line),
    Array.from({ length: 1000 }, (_, line) => line),
  )
})
