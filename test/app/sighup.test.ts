/** What SIGHUP makes of the file, before the server hears of it. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { createSighupHandler } from '../../src/app/sighup.ts'
import { loadConfig, type Config } from '../../src/config/schema.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { recordedEdge } from '../support/edge.ts'
import '../support/folders-last.ts'

interface Scene {
  readonly write: (text: string) => void
  readonly reread: () => Promise<void>
  /** What the server was told to go by. */
  readonly read: Config[]
  readonly lines: Record<string, unknown>[]
}

function scene(t: Test, started: string): Scene {
  const file = join(t.testdir(), 'config.yaml')
  const read: Config[] = []
  const lines: Record<string, unknown>[] = []
  const reread = createSighupHandler({
    options: { config: file },
    io: recordedEdge(),
    app: {
      reload: (config) => {
        read.push(config)
        return Promise.resolve({ applied: ['cache.offline'], needRestart: [] })
      },
    },
    log: createLog({
      level: 'debug',
      write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>),
    }),
    config: loadConfig({ text: started, env: {} }).config,
  })
  return { write: (text) => writeFileSync(file, text), reread, read, lines }
}

test('a file that cannot be read changes nothing', async (t) => {
  const { reread, read, lines } = scene(t, '')
  await reread()
  t.same(read, [])
  t.match(lines, [{ level: 'error', problems: [{ message: /cannot be read/ }] }])
})

test('several signals are minded one after the other', async (t) => {
  const { write, reread, read, lines } = scene(t, '')
  write('local: [one/**]')
  const first = reread()
  const second = reread()
  await first
  write('local: [two/**]')
  await Promise.all([second, reread()])
  t.same(read.at(-1)?.local, ['two/**'], 'the last one finds the file as it is')
  t.equal(read.length, 3)
  t.match(lines.at(-1), { level: 'info', applied: ['cache.offline'] })
})

test('warnings of the file are told as at a start', async (t) => {
  const { write, reread, lines } = scene(t, '')
  write('push: { anonymous: true }')
  await reread()
  t.match(lines, [{ level: 'warn', warning: /whoever reaches/ }, { level: 'info' }])
})

test('what only this machine may have is not given to the network by an address of the next start', async (t) => {
  const account = '{ docker.io: { username: me, password: secret } }'
  const { write, reread, read, lines } = scene(t, 'server: { host: 0.0.0.0 }')
  write(`server: { host: 127.0.0.1 }\nupstreams: ${account}`)
  await reread()
  t.same(read, [])
  t.match(lines, [{ level: 'error', problems: [{ message: /whoever reaches 0\.0\.0\.0/ }] }])
  t.notMatch(JSON.stringify(lines), 'secret')
  write('server: { host: 127.0.0.1 }\nlocal: [a/**]')
  await reread()
  t.match(read, [{ local: ['a/**'] }], 'the rest of it is good')
})
