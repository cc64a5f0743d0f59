/**
 * How a start goes wrong: one clear sentence, and the exit code that says whose fault it was.
 */
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type Test } from 'tap'
import { image } from '../../support/images.ts'
import { commandLine, Entrepot, entrepot, type EntrepotOptions } from '../../support/process.ts'
import { run, type Finished } from '../../support/programs.ts'
import { pushImage } from '../../support/push.ts'
import '../../support/folders-last.ts'

async function start(options: EntrepotOptions, ...more: string[]): Promise<Finished> {
  const { command, args, env } = commandLine(options)
  return run(command, [...args, ...more], { env, timeoutMs: 20_000 })
}

/** It ended with 1, and said why in one line. */
async function refuses(t: Test, options: EntrepotOptions, sentence: RegExp): Promise<void> {
  const { code, stdout, stderr } = await start(options)
  t.equal(code, 1)
  t.match(stderr, sentence)
  t.match(stderr, /^entrepot cannot start: [^\n]+\n$/, 'one sentence, no stack')
  t.equal(stdout, '')
}

test('a bad configuration ends with 2 and every problem', async (t) => {
  const { code, stdout, stderr } = await start({
    dir: t.testdir(),
    config: { cache: { tagTTL: '1m', prefetch: 'all' }, log: { level: 'loud' } },
  })
  t.equal(code, 2)
  t.equal(stdout, '')
  t.match(stderr, /config\.yaml is not valid/)
  t.match(stderr, /cache\.tagTTL \(line \d+\): no such key; did you mean tagTtl\?/)
  t.match(stderr, /cache\.prefetch \(line \d+\): found "all", expected one of layers, config, off/)
  t.match(stderr, /log\.level \(line \d+\): found "loud"/)
})

test('ENTREPOT_CONFIG names the file where no --config does', async (t) => {
  const { command, args, env } = commandLine({ dir: t.testdir(), config: { zebra: 1 } })
  const file = args.at(-1)!
  const { code, stderr } = await run(command, args.slice(0, -2), { env: { ...env, ENTREPOT_CONFIG: file } })
  t.equal(code, 2)
  t.match(stderr, /zebra/)
})

test('a mistyped option ends with 2, help and version with 0', async (t) => {
  const dir = t.testdir()
  t.match(await start({ dir }, '--prot', '1'), { code: 2, stderr: /unknown option '--prot'/ })
  t.match(await start({ dir }, '--help'), { code: 0, stdout: /--config <file>/ })
  const { command, args } = commandLine({ dir })
  t.match(await run(command, [args[0]!, '--version']), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ })
})

test('a taken port', async (t) => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  await refuses(
    t,
    { dir: t.testdir(), config: { server: { port } } },
    new RegExp(`127\\.0\\.0\\.1:${port} is taken`),
  )
})

test('an address that is not ours', async (t) => {
  await refuses(
    t,
    { dir: t.testdir(), config: { server: { host: '192.0.2.1', port: 0 } } },
    /192\.0\.2\.1 is not an address/,
  )
})

test('a folder that cannot be one', async (t) => {
  const dir = t.testdir({ file: 'in the way' })
  await refuses(t, { dir, config: { storage: { root: join(dir, 'file') } } }, /file is not a folder/)
  // Even root cannot make one here.
  await refuses(
    t,
    { dir, config: { storage: { root: '/sys/entrepot' } } },
    /\/sys\/entrepot (cannot be written|is on a read-only)/,
  )
  await refuses(
    t,
    { dir, config: { storage: { root: '/proc/entrepot' } } },
    /\/proc\/entrepot cannot be made/,
  )
})

test('a folder that another process owns', async (t) => {
  const dir = t.testdir()
  const first = await Entrepot.start(t, { dir })
  await refuses(t, { dir }, new RegExp(`data is in use by process ${first.program.pid} `))
})

test('a folder whose owner was killed is free', async (t) => {
  const dir = t.testdir()
  const first = await Entrepot.start(t, { dir })
  first.program.kill('SIGKILL')
  await first.program.exited
  const second = await Entrepot.start(t, { dir })
  t.equal((await fetch(`${second.url}/v2/`)).status, 200)
})

test('a database from a later version', async (t) => {
  const dir = t.testdir()
  const first = await Entrepot.start(t, { dir })
  await first.program.stop()
  const database = new DatabaseSync(join(dir, 'data/metadata.sqlite'))
  database.exec('update schema_version set version = 9999')
  database.close()
  await refuses(t, { dir }, /schema 9999, written by a later version/)
})

test('a lost index: no start, and no command that would act by another one', async (t) => {
  const dir = t.testdir()
  const root = join(dir, 'data')
  const first = await Entrepot.start(t, { dir })
  await pushImage(`${first.url}/v2/team/x`, image({ layers: [1000] }), '1')
  await first.program.stop()
  t.same(
    readdirSync(root).filter((name) => /-(wal|shm)$/.test(name)),
    [],
    'a clean stop leaves all of it in one file',
  )
  const blobs = readdirSync(join(root, 'blobs'), { recursive: true }).sort()
  const kept = readFileSync(join(root, 'metadata.sqlite'))
  truncateSync(join(root, 'metadata.sqlite'))
  await refuses(t, { dir }, /metadata\.sqlite is empty;.* `restore FILE`,.* `verify --rebuild`,/)
  for (const command of ['gc', 'verify', 'evict']) {
    const { code, stderr } = await entrepot({ dir }, command)
    t.equal(code, 1)
    t.match(stderr, /^entrepot: the index [^\n]*metadata\.sqlite is empty; [^\n]+\n$/)
  }
  t.same(readdirSync(join(root, 'blobs'), { recursive: true }).sort(), blobs)
  writeFileSync(join(root, 'metadata.sqlite'), kept)
  const again = await Entrepot.start(t, { dir })
  t.equal((await fetch(`${again.url}/v2/team/x/manifests/1`)).status, 200)
})

test('a certificate that is not there, or is none', async (t) => {
  const dir = t.testdir({ not: 'a certificate' })
  const tls = (name: string): EntrepotOptions => ({
    dir,
    config: { server: { port: 0, tls: { cert: join(dir, name), key: join(dir, name) } } },
  })
  await refuses(t, tls('none.pem'), /none\.pem/)
  await refuses(t, tls('not'), /not/)
})

test('an older Node is told which one it takes', async (t) => {
  const older =
    "Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.11.1' } })"
  const { code, stdout, stderr } = await start({
    dir: t.testdir(),
    execArgv: ['--import', `data:text/javascript,${encodeURIComponent(older)}`],
  })
  t.equal(code, 1)
  t.equal(stdout, '')
  t.match(stderr, /^entrepot needs Node 24 or newer, and this is 20\.11\.1: [^\n]+\n$/)
})

test('what nobody caught is logged, and ends the process with 1', async (t) => {
  const crash = "process.on('SIGUSR2', () => Promise.reject(new Error('nobody caught me')))"
  const entrepot = await Entrepot.start(t, {
    dir: t.testdir(),
    execArgv: ['--import', `data:text/javascript,${encodeURIComponent(crash)}`],
  })
  entrepot.program.kill('SIGUSR2')
  t.match(await entrepot.program.exited, { code: 1 })
  t.match(entrepot.log.at(-1), { level: 'fatal', msg: 'crashed', err: { message: 'nobody caught me' } })
})

test('what is valid and worth a second thought is a warning', async (t) => {
  const entrepot = await Entrepot.start(t, { dir: t.testdir(), config: { push: { anonymous: true } } })
  t.match(entrepot.log[0], { level: 'warn', warning: /^push\.anonymous: whoever reaches/ })
})

test('server.shutdownGrace is how long answers may take after a signal, 25 s unless it says so', async (t) => {
  const { promise: asked, resolve } = Promise.withResolvers<undefined>()
  const silent = createServer((socket) => {
    socket.on('error', () => undefined)
    resolve(undefined)
  })
  await new Promise<void>((listening) => silent.listen(0, '127.0.0.1', listening))
  t.teardown(() => {
    silent.close()
  })
  const { port } = silent.address() as AddressInfo
  for (const [server, graceMs] of [
    [{ port: 0 }, 25_000],
    [{ port: 0, shutdownGrace: '10ms' }, 10],
  ] as const) {
    const dir = t.testdir()
    const upstreams = { 'docker.io': { url: `http://127.0.0.1:${port}`, default: true } }
    const entrepot = await Entrepot.start(t, { dir, config: { server, upstreams } })
    // One that is never answered, where waiting for it is to be seen.
    const pull = graceMs === 10 ? fetch(`${entrepot.url}/v2/x/manifests/1`).catch(() => undefined) : undefined
    if (pull !== undefined) await asked
    entrepot.program.kill('SIGTERM')
    const { code } = await entrepot.program.exited
    t.equal(code, 0)
    t.match(
      entrepot.log.find(({ msg }) => msg === 'stopping'),
      { graceMs },
    )
    await pull
  }
})
