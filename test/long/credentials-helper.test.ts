/** Credentials from `docker-credential-NAME` programs: real ones, on a PATH of our own. */
import { chmod, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test, type Test } from 'tap'
import { credentialSource } from '../../src/upstream/login/credential-source.ts'
import { IDENTITY_TOKEN } from '../../src/upstream/login/credentials.ts'
import { eventually } from '../support/app.ts'
import { everythingSaid, guard, ROBOT } from '../support/guarded.ts'
import { failureOf } from '../support/upstream-client.ts'

const signal = new AbortController().signal
const PATH = process.env['PATH'] ?? ''
const MINUTE = 60_000

/** `docker-credential-test` is this shell script; `calls` are what it was asked, one a line. */
async function install(t: Test, script: string, name = 'test') {
  const folder = t.testdir({ data: {}, calls: '' })
  const program = path.join(folder, `docker-credential-${name}`)
  const calls = path.join(folder, 'calls')
  const write = async (body: string): Promise<void> => {
    await writeFile(program, `#!/bin/sh\nserver=$(cat)\necho "$1 $server" >> '${calls}'\n${body}\n`)
    await chmod(program, 0o755)
  }
  await write(script)
  process.env['PATH'] = `${folder}:${PATH}`
  t.teardown(() => {
    process.env['PATH'] = PATH
  })
  const asked = async (): Promise<string[]> => (await readFile(calls, 'utf8')).split('\n').slice(0, -1)
  return { folder, data: path.join(folder, 'data'), program, write, asked }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

function answering(username: string, secret: string): string {
  return `cat <<'EOF'\n${JSON.stringify({ ServerURL: 'x', Username: username, Secret: secret })}\nEOF`
}

function helper(key = 'quay.io', url = `https://${key}`, timeoutMs?: number) {
  const warnings: unknown[] = []
  const log = { warn: (fields: object, message: string) => warnings.push({ ...fields, message }) }
  const clock = { now: 1000 }
  const context = { key, url, log, now: () => clock.now, timeoutMs }
  return { source: credentialSource({ credentialHelper: 'test' }, context), warnings, clock }
}

void test('credentialHelper: asks for the server as docker does, once for however many', async (t) => {
  const { asked } = await install(t, answering('AWS', 'line\nline: "ä"'))
  for (const [key, url, server] of [
    ['docker.io', 'https://registry-1.docker.io', 'https://index.docker.io/v1/'],
    ['quay.io', 'https://quay.io', 'quay.io'],
    ['team', 'https://1.dkr.ecr.eu-west-1.amazonaws.com', '1.dkr.ecr.eu-west-1.amazonaws.com'],
    ['registry.example:5000', 'https://registry.example:5000', 'registry.example:5000'],
  ] as const) {
    const { source } = helper(key, url)
    const answers = await Promise.all(Array.from({ length: 20 }, () => source.get(signal)))
    for (const it of answers) t.same(it, { username: 'AWS', password: 'line\nline: "ä"' })
    t.equal((await asked()).at(-1), `get ${server}`)
  }
  t.equal((await asked()).length, 4)
})

void test('credentialHelper: an answer is good for five minutes, and until it is refused', async (t) => {
  const { write, asked } = await install(t, answering('AWS', 'first'))
  const { source, clock } = helper()
  const first = await source.get(signal)
  clock.now += 5 * MINUTE - 1
  await source.get(signal)
  t.equal((await asked()).length, 1)
  clock.now += 1
  await source.get(signal)
  t.equal((await asked()).length, 2)

  await write(answering('AWS', 'second'))
  source.rejected!(first!)
  const second = await source.get(signal)
  t.equal(second?.password, 'second')
  source.rejected!(first!)
  await source.get(signal)
  t.equal((await asked()).length, 3, 'what was refused is not what it says now')

  source.rejected!(second!)
  await source.get(signal)
  t.equal((await asked()).length, 4)
  for (let turn = 0; turn < 5; turn += 1) {
    source.rejected!(second!)
    await source.get(signal)
  }
  t.equal((await asked()).length, 4, 'it insists, so it is left alone for a while')
  clock.now += 10_001
  source.rejected!(second!)
  await source.get(signal)
  t.equal((await asked()).length, 5)
})

void test('credentialHelper: "none" is none, with a warning', async (t) => {
  for (const words of [
    'echo credentials not found in native keychain; exit 1',
    'echo credentials not found in native keychain >&2; exit 1',
    'echo no credentials server URL; exit 1',
    answering('', ''),
  ]) {
    const { asked } = await install(t, words)
    const { source, warnings } = helper()
    t.equal(await source.get(signal), undefined, words)
    t.equal(await source.get(signal), undefined)
    t.equal((await asked()).length, 1)
    t.match(warnings, [{ helper: 'test', message: /asking without/ }])
  }
})

void test('credentialHelper: whatever else goes wrong is told without its words, and briefly believed', async (t) => {
  for (const [script, message, timeoutMs] of [
    ['echo hunter2; echo hunter2 >&2; exit 3', /^docker-credential-test failed \(exit code 3\)/],
    ['kill -9 $$', /failed \(SIGKILL\)/],
    ['echo hunter2', /answered something that is no credentials/],
    ['echo "[]"', /answered something that is no credentials/],
    ['echo \'{"Username":"hunter2"}\'', /answered something that is no credentials/],
    [answering('hunter2:x', 'y'), /colon/],
    ['while :; do echo hunter2hunter2hunter2hunter2; done', /says too much/],
    ['echo hunter2; sleep 60', /did not answer within 0\.2 s/, 200],
  ] as const) {
    const { asked } = await install(t, script)
    const { source, warnings, clock } = helper('quay.io', 'https://quay.io', timeoutMs)
    const error = await failureOf(source.get(signal))
    t.match(error, { failure: 'unreachable', upstream: 'quay.io', message }, script)
    t.equal(await failureOf(source.get(signal)), error)
    t.equal((await asked()).length, 1)
    t.equal(warnings.length, 1)
    t.notMatch(`${error.message} ${String(error.cause)} ${JSON.stringify(warnings)}`, 'hunter2')
    clock.now += 10_001
    await failureOf(source.get(signal))
    t.equal((await asked()).length, 2)
  }
})

void test('credentialHelper: one that is missing, or no program, is named', async (t) => {
  const { program } = await install(t, answering('a', 'b'))
  await chmod(program, 0o644)
  t.match(
    (await failureOf(helper().source.get(signal))).message,
    /docker-credential-test may not be executed/,
  )
  process.env['PATH'] = '/nowhere'
  t.match((await failureOf(helper().source.get(signal))).message, /docker-credential-test is not on the PATH/)
})

void test('credentialHelper: is run without a shell, and ended with us', async (t) => {
  const { write, asked } = await install(t, answering('a', 'b'))
  await helper('quay.io', 'https://$(exit).`exit`.example').source.get(signal)
  t.same(await asked(), ['get $(exit).`exit`.example'])

  await write('sleep 60')
  const { source } = helper()
  const running = failureOf(source.get(signal))
  await eventually('it runs', async () => (await asked()).length === 2)
  source.close!()
  t.match(await running, { failure: 'unreachable' })
})

void test('credentialHelper: what it has started ends with it', async (t) => {
  const { data, write } = await install(t, '')
  for (const [script, timeoutMs] of [
    ['sleep 60', 300],
    ['yes', undefined],
  ] as const) {
    await write(`sh -c 'echo $$ > "${data}/pid"; ${script}; :'`)
    await failureOf(helper('quay.io', 'https://quay.io', timeoutMs).source.get(signal))
    const pid = Number(await readFile(path.join(data, 'pid'), 'utf8'))
    await eventually(`${script} is gone`, () => Promise.resolve(!isRunning(pid)))
  }
})

void test('credentialHelper: a client that leaves does not end it for the others', async (t) => {
  await install(t, `sleep 0.2; ${answering('a', 'b')}`)
  const { source } = helper()
  const leaving = new AbortController()
  const first = source.get(leaving.signal)
  const second = source.get(signal)
  leaving.abort(new Error('gone'))
  await t.rejects(first, { message: 'gone' })
  t.match(await second, { username: 'a' })
})

void test('credentialsFile: credHelpers go before auths, credsStore after them', async (t) => {
  const { folder, asked } = await install(t, answering('helped', 'b'))
  const auths = { 'quay.io': { username: 'written', password: 'p' } }
  for (const [config, username, runs] of [
    [{ auths, credHelpers: { 'quay.io': 'test' } }, 'helped', 1],
    [{ auths, credsStore: 'test' }, 'written', 1],
    [{ auths: { 'quay.io': {} }, credsStore: 'test' }, 'helped', 2],
    [{ credsStore: 'test' }, 'helped', 3],
    [{ auths, credHelpers: { 'gcr.io': 'test' } }, 'written', 3],
  ] as const) {
    const file = path.join(folder, 'config.json')
    await writeFile(file, JSON.stringify(config))
    const log = { warn: () => undefined }
    const context = { key: 'quay.io', url: 'https://quay.io', log, now: () => performance.now() }
    const source = credentialSource({ credentialsFile: file }, context)
    t.match(await source.get(signal), { username }, JSON.stringify(config))
    await source.get(signal)
    t.equal((await asked()).length, runs)
  }
})

void test('credentialHelper: a rotated password is asked for within the request that is refused', async (t) => {
  const { data, write, asked } = await install(t, answering('AWS', 'first'))
  const { upstream, grownStale, list, pullAll } = await guard(
    t,
    { basic: { username: 'AWS', password: 'first' } },
    { upstream: { credentialHelper: 'test' }, root: data },
  )
  await grownStale()
  await list()
  const runs = (await asked()).length
  await write(answering('AWS', 'second'))
  upstream.set({ basic: { username: 'AWS', password: 'second' } })
  t.equal(await list(), 200)
  t.equal((await asked()).length, runs + 1)
  t.ok(await pullAll())
})

void test('credentialHelper: an identity token is exchanged', async (t) => {
  const { data } = await install(t, answering(IDENTITY_TOKEN, 'refresh'))
  const { upstream, pullAll } = await guard(
    t,
    { token: { identityToken: 'refresh', anonymous: false } },
    { upstream: { credentialHelper: 'test' }, root: data },
  )
  t.ok(await pullAll())
  t.match(upstream.log.of('token')[0], { method: 'POST', status: 200 })
})

void test('credentialHelper: without its program the mirror starts, serves what it has, and says so', async (t) => {
  const { data } = await install(t, answering(ROBOT.username, ROBOT.password))
  const world = await guard(t, { basic: ROBOT }, { upstream: { credentialHelper: 'test' }, root: data })
  await world.grownStale()
  await world.mirror.close()
  process.env['PATH'] = '/nowhere'
  const { mirror, clock, upstream, image } = await guard(
    t,
    { basic: ROBOT },
    { upstream: { credentialHelper: 'test' }, root: data },
  )
  clock.now += 600_000
  const { status, headers } = await fetch(`${mirror.url}/v2/library/app/manifests/1`)
  t.same([status, headers.get('x-cache')], [200, 'stale'])
  const blob = await fetch(`${mirror.url}/v2/library/app/blobs/${image.layers[0]!.digest}`)
  t.ok(Buffer.from(await blob.arrayBuffer()).equals(image.layers[0]!.bytes))
  t.equal((await fetch(`${mirror.url}/v2/library/none/manifests/1`)).status, 503)
  t.equal(upstream.log.authorizationSeenBy('registry'), 0)
  t.match(everythingSaid(mirror), /docker-credential-test is not on the PATH/)
})
