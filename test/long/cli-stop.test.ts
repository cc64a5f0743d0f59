/**
 * How a running server ends.
 */
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { commandLine, Entrepot } from '../support/process.ts'
import { missing, Program } from '../support/programs.ts'
import '../support/folders-last.ts'

const BLOB = Buffer.alloc(1_000_000, 'entrepot ')
const HALF = BLOB.length / 2

/** A registry of one blob that stops in the middle of it until it is told to go on. */
async function halfway(t: Test): Promise<{ url: string; goOn(): void; asked: Promise<unknown> }> {
  let response: ServerResponse | undefined
  const server = createServer((request, answer) => {
    if (!request.url?.includes('/blobs/')) return void answer.writeHead(404).end()
    answer.writeHead(200, { 'content-length': BLOB.length })
    if (request.method === 'HEAD') return void answer.end()
    answer.write(BLOB.subarray(0, HALF))
    response = answer
    server.emit('asked')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { url, asked: once(server, 'asked'), goOn: () => response?.end(BLOB.subarray(HALF)) }
}

/** An entrepot that is in the middle of answering. */
async function answering(t: Test) {
  const upstream = await halfway(t)
  const entrepot = await Entrepot.start(t, {
    dir: t.testdir(),
    config: { upstreams: { 'docker.io': { url: upstream.url, default: true } } },
  })
  const response = await fetch(`${entrepot.url}/v2/library/x/blobs/${digestOf(BLOB)}`)
  t.equal(response.status, 200)
  const body = response.body!.values() as AsyncIterator<Uint8Array>
  const first = await body.next()
  t.notOk(first.done, 'the body has begun')
  const rest = (async () => {
    let received = 0
    for (let part = first; !part.done; part = await body.next()) received += part.value.length
    return received
  })()
  // Looked at later; it may fail before.
  rest.catch(() => undefined)
  return { upstream, entrepot, rest }
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} lets a running response finish and ends with 0`, async (t) => {
    const { upstream, entrepot, rest } = await answering(t)
    entrepot.program.kill(signal)
    await entrepot.logged('stopping')
    await t.rejects(fetch(`${entrepot.url}/v2/`), 'nobody new is let in')
    upstream.goOn()
    t.equal(await rest, BLOB.length, 'the response came whole')
    t.match(await entrepot.program.exited, { code: 0 })
    t.match(entrepot.log.at(-1), { msg: 'stopped' })
  })
}

test('a second signal ends at once with 1', async (t) => {
  const { entrepot, rest } = await answering(t)
  entrepot.program.kill('SIGTERM')
  await entrepot.logged('stopping')
  // Two signals within half a second are one wish: Ctrl-C under npm arrives twice.
  entrepot.program.kill('SIGTERM')
  await sleep(700)
  entrepot.program.kill('SIGTERM')
  t.match(await entrepot.program.exited, { code: 1 })
  await t.rejects(rest, 'what was running is broken off')
})

test('npm start serves without any network, and hands signals on', { skip: missing('npm') }, async (t) => {
  const dir = t.testdir()
  const { args, env } = commandLine({
    dir,
    // Nobody answers at these addresses, on any machine.
    config: {
      upstreams: {
        'docker.io': { url: 'https://192.0.2.1', default: true, proxy: 'http://192.0.2.2:3128' },
        'quay.io': { url: 'http://registry.invalid' },
      },
    },
  })
  const npm = new Program(t, 'npm', ['start', '--silent', '--', ...args.slice(-2)], {
    ...env,
    npm_config_update_notifier: 'false',
  })
  const entrepot = await Entrepot.follow(npm)
  const response = await fetch(`${entrepot.url}/v2/`)
  t.equal(response.status, 200)
  t.equal(response.headers.get('docker-distribution-api-version'), 'registry/2.0')
  npm.kill('SIGTERM')
  await npm.exited
  t.match(entrepot.log.at(-1), { msg: 'stopped' })
  await t.rejects(fetch(`${entrepot.url}/v2/`), 'nobody is left on the port')
})
