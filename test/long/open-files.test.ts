/** A real entrepot with few descriptors, as strangers may leave it with few: what is cached is served, and nobody is blamed. */
import { readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { test, type Test } from 'tap'
import { Agent, request } from 'undici'
import { eventually, simulate } from '../support/app.ts'
import { image, type Image } from '../support/images.ts'
import { commandLine, Entrepot } from '../support/process.ts'
import { missing, Program, succeed } from '../support/programs.ts'
import '../support/folders-last.ts'

const hot = image({ layers: [300_000, 200_000, 100_000], seed: 'hot' })
const cold = image({ layers: [300_000, 200_000, 100_000], seed: 'cold' })
const colder = image({ layers: [300_000, 200_000, 100_000], seed: 'colder' })

interface Scene {
  readonly server: Entrepot
  readonly pid: number
}

/** @param limit of its open files, soft and hard: Node raises the one to the other */
async function start(t: Test, limit: number): Promise<Scene> {
  const upstream = await simulate(t)
  upstream.addImage('library/hot', '1', hot)
  upstream.addImage('library/cold', '1', cold)
  // Nobody has been connected to this one yet.
  const quay = await simulate(t)
  quay.addImage('library/colder', '1', colder)
  const upstreams = { 'docker.io': { url: upstream.url, default: true }, 'quay.io': { url: quay.url } }
  const { command, args, env } = commandLine({
    dir: t.testdir(),
    config: { upstreams, cache: { prefetch: 'off' }, log: { level: 'debug' } },
  })
  const limited = ['--nofile=' + String(limit), command, ...args]
  const program = new Program(t, 'prlimit', limited, env)
  const server = await Entrepot.follow(program)
  return { server, pid: program.pid ?? 0 }
}

/** A client of one connection at a time, which it keeps. */
function client(t: Test): Agent {
  const agent = new Agent({ connections: 1, keepAliveTimeout: 600_000, headersTimeout: 60_000 })
  t.teardown(() => agent.destroy())
  return agent
}

async function get(
  url: string,
  agent: Agent,
): Promise<{ status: number; body: Buffer; retryAfter: unknown }> {
  const { statusCode, headers, body } = await request(url, { dispatcher: agent })
  return {
    status: statusCode,
    body: Buffer.from(await body.arrayBuffer()),
    retryAfter: headers['retry-after'],
  }
}

async function pullAll(server: Entrepot, name: string, it: Image, agent: Agent): Promise<number[]> {
  const base = `${server.url}/v2/${name}`
  const statuses = [(await get(`${base}/manifests/1`, agent)).status]
  for (const { digest } of it.blobs) statuses.push((await get(`${base}/blobs/${digest}`, agent)).status)
  return statuses
}

const descriptorsOf = (pid: number): number => readdirSync(`/proc/${String(pid)}/fd`).length

const served = (it: Image): number[] => [200, ...it.blobs.map(() => 200)]

async function breakerOf(server: Entrepot): Promise<number> {
  return await server.metric('entrepot_upstream_breaker_open')
}

test(
  'strangers who connect and say little keep nobody from pulling',
  { skip: missing('prlimit') },
  async (t) => {
    const limit = 256
    const { server, pid } = await start(t, limit)
    const agent = client(t)
    t.same(await pullAll(server, 'library/hot', hot, agent), served(hot))

    const strangers: Socket[] = []
    t.teardown(() => strangers.forEach((it) => it.destroy()))
    for (let count = 0; count < 400; count++) {
      const socket = connect(Number(server.port), '127.0.0.1')
      socket.on('error', () => undefined).resume()
      strangers.push(socket)
      await once(socket, 'connect')
      // Some have asked for something before.
      if (count % 3 === 0) socket.write('GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
    }
    t.ok(descriptorsOf(pid) < limit - 32, `${String(descriptorsOf(pid))} are open`)
    const late = client(t)
    for (const [name, it] of [
      ['library/hot', hot],
      ['library/cold', cold],
    ] as const) {
      t.same(await pullAll(server, name, it, late), served(it), name)
      t.same(await pullAll(server, name, it, agent), served(it), `${name}, whoever was here before`)
    }
    t.equal(await breakerOf(server), 0)
    for (const path of ['livez', 'readyz'])
      t.equal((await get(`${server.url}/${path}`, late)).status, 200, path)
  },
)

test('at the limit itself it says that the limit is its own', { skip: missing('prlimit') }, async (t) => {
  const { server, pid } = await start(t, 1024)
  const agent = client(t)
  t.same(await pullAll(server, 'library/hot', hot, agent), served(hot))
  // What a first push or download would still open for good is open.
  t.same(await pullAll(server, 'library/cold', cold, agent), served(cold))
  const watching = client(t)
  await get(`${server.url}/livez`, watching)

  let lowest = descriptorsOf(pid)
  for (const name of readdirSync(`/proc/${String(pid)}/fd`)) lowest = Math.max(lowest, Number(name) + 1)
  const fillers: Socket[] = []
  t.teardown(() => fillers.forEach((it) => it.destroy()))
  /** Until all numbers below the limit are taken: connections close now and then. */
  const fill = (): Promise<void> =>
    eventually('nothing is left', () => {
      if (descriptorsOf(pid) >= lowest) return true
      fillers.push(connect(Number(server.port), '127.0.0.1').on('error', () => undefined))
      return false
    })
  await succeed('prlimit', ['--pid', String(pid), `--nofile=${String(lowest)}:1024`])

  const base = `${server.url}/v2`
  t.equal((await get(`${base}/library/hot/manifests/1`, agent)).status, 200, 'a manifest in memory')
  for (const path of [
    `library/hot/blobs/${hot.layers[0]!.digest}`,
    'quay.io/library/colder/manifests/1',
    `library/cold/blobs/${cold.config.digest}`,
  ]) {
    await fill()
    const answer = await get(`${base}/${path}`, agent)
    // Upstream is still connected to, perhaps, and sends what is here and cannot be opened.
    if (!path.startsWith('quay.io') && answer.status === 200) continue
    t.equal(answer.status, 503, path)
    t.match(answer.body.toString(), /this process may open no more files/)
    t.equal(answer.retryAfter, '10')
  }
  t.equal((await get(`${server.url}/livez`, watching)).status, 200)
  const ready = JSON.parse((await get(`${server.url}/readyz`, watching)).body.toString()) as object
  t.match(ready, {
    status: 'degraded',
    openFiles: 'exhausted',
    storage: 'ok',
    upstreams: [{ state: 'ok' }, { state: 'ok' }],
  })
  const metrics = (await get(`${server.url}/metrics`, watching)).body.toString()
  t.notMatch(metrics, /^entrepot_upstream_breaker_open\{[^}]*\} 1$/m)
  t.match(metrics, /^entrepot_out_of_files_total\{what="upstream"\} [1-9]/m)

  for (const it of fillers) it.destroy()
  await succeed('prlimit', ['--pid', String(pid), '--nofile=1024:1024'])
  t.same(await pullAll(server, 'library/hot', hot, agent), served(hot))
  t.same(await pullAll(server, 'quay.io/library/colder', colder, agent), served(colder), 'at once')
  const lines = server.log.filter(({ msg }) => /limit of open files/.test(String(msg)))
  t.equal(lines.length, 1)
})
