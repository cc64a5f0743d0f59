/** Connections: what is kept, what is closed, and who leaves when. */
import { once } from 'node:events'
import { Agent, request, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { test } from 'tap'
import { eventually } from '../support/app.ts'
import { askAndTakeNothing, standstill } from '../support/stalled.ts'
import { call, open, raw, replies, serveFake, type LogLine } from '../support/http-fakes.ts'

const BIG = Buffer.alloc(64 * 1024 * 1024, 'entrepot')

test('the ping is answered at once, whatever the registry is like', async (t) => {
  const { url, registry } = await serveFake(t)
  for (const path of ['/v2/', '/v2', '/v2/?ns=docker.io']) {
    const reply = await call(`${url}${path}`)
    t.equal(reply.status, 200)
    t.equal(reply.body.toString(), '{}')
    t.match(reply.headers, {
      'docker-distribution-api-version': 'registry/2.0',
      'content-type': 'application/json',
      'content-length': '2',
    })
    t.equal(reply.headers['www-authenticate'], undefined)
    const head = await call(`${url}${path}`, { method: 'HEAD' })
    t.equal(head.headers['content-length'], '2')
    t.equal(head.body.length, 0)
  }
  t.same(registry.calls, [])
})

test('a request id that makes sense is kept, another one is replaced', async (t) => {
  const { url } = await serveFake(t)
  const idOf = async (id: string): Promise<unknown> =>
    (await call(`${url}/v2/`, { headers: { 'X-Request-Id': id } })).headers['x-request-id']
  for (const id of ['abc-123', 'Root=1-67891233-abc.DEF_0:9']) t.equal(await idOf(id), id)
  for (const id of ['', 'a b', '{"x":1}', 'x'.repeat(129), '-']) {
    t.match(await idOf(id), /^[0-9a-f]{8}-[0-9a-f-]{27}$/, id.slice(0, 20))
  }
})

test('a connection is kept over errors of every kind', async (t) => {
  const { url, repository } = await serveFake(t)
  const digest = repository.addBlob(BIG.subarray(0, 1000))
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  let connections = 0
  const createConnection = agent.createConnection.bind(agent)
  agent.createConnection = (...all: Parameters<typeof createConnection>) => {
    connections++
    return createConnection(...all)
  }
  const steps: [string, string, number][] = [
    ['GET', '/v2/', 200],
    ['GET', '/nowhere', 404],
    ['HEAD', '/v2/a/manifests/none', 404],
    ['PUT', '/v2/a/manifests/x', 405],
    ['GET', `/v2/a/blobs/${digest}`, 200],
    ['HEAD', `/v2/a/blobs/${digest}`, 200],
    ['GET', '/v2/A/manifests/x', 400],
    ['GET', `/v2/a/blobs/${digest}`, 200],
  ]
  for (const [method, path, status] of steps) {
    const reply = await call(`${url}${path}`, {
      method,
      agent,
      ...(method === 'PUT' ? { body: 'manifest' } : {}),
    })
    t.equal(reply.status, status, `${method} ${path}`)
  }
  t.equal(connections, 1)
})

test('Connection: close is obeyed, and so is HTTP/1.0', async (t) => {
  const { port } = await serveFake(t)
  for (const text of [
    'GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    'GET /v2/ HTTP/1.0\r\n\r\n',
    'GET /nowhere HTTP/1.0\r\n\r\n',
  ]) {
    const all = replies(await raw(port, text))
    t.equal(all.length, 1)
    t.match(all[0]?.head, /^connection: close$/im)
  }
})

test('a connection is kept longer than load balancers wait', async (t) => {
  const { url } = await serveFake(t)
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  t.equal((await call(`${url}/v2/`, { agent })).headers['keep-alive'], 'timeout=75')
})

test('pipelined requests are answered in order, one at a time', async (t) => {
  const { port, repository } = await serveFake(t)
  repository.addManifest('m', Buffer.from('{"m":1}'))
  const blob = repository.addBlob(BIG.subarray(0, 300_000))
  const running: number[] = []
  repository.behaviour = { onRead: () => running.push(repository.answersOpen) }
  const ask = (path: string, more = ''): string => `GET ${path} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
  const text = await raw(
    port,
    ask(`/v2/a/blobs/${blob}`) +
      ask('/v2/a/manifests/m') +
      ask('/v2/A/manifests/m') +
      ask(`/v2/a/blobs/${blob}`) +
      ask('/v2/', 'Connection: close\r\n'),
  )
  const all = replies(text)
  t.same(
    all.map(({ status, body }) => [status, body.length]),
    [
      [200, 300_000],
      [200, 7],
      [400, all[2]?.body.length],
      [200, 300_000],
      [200, 2],
    ],
  )
  t.ok(running.every((count) => count === 1))
})

test('nonsense behind a request is answered after it, never into it', async (t) => {
  const { port, repository } = await serveFake(t)
  const digest = repository.addBlob(BIG.subarray(0, 1_000_000))
  const text = await raw(
    port,
    `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\nNONSENSE\r\n\r\nMORE NONSENSE\r\n\r\n`,
  )
  const [good, bad, ...rest] = replies(text)
  t.equal(good?.body, BIG.subarray(0, 1_000_000).toString('latin1'))
  t.same([bad?.status, bad?.code, rest.length], [400, 'BAD_REQUEST', 0])
})

test('a connection on which far too much is pipelined is closed', async (t) => {
  const { port, repository } = await serveFake(t)
  repository.behaviour = { stallAt: 0 }
  const digest = repository.addBlob(BIG.subarray(0, 1000))
  await raw(port, `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(100))
  t.equal(repository.sourcesOpen + repository.answersOpen, 0)
  t.ok(repository.opened.length <= 1)
})

test('a client that leaves closes its source, wherever it was', async (t) => {
  const { url, repository, line } = await serveFake(t)
  const path = `${url}/v2/a/blobs/${repository.addBlob(BIG)}`
  let nth = 0
  for (const unverified of [false, true]) {
    for (const behaviour of [{}, { stallAt: 5_000_000 }]) {
      Object.assign(repository, { unverified, behaviour })
      const outgoing = request(path, { agent: false })
      outgoing.on('error', () => undefined)
      outgoing.end()
      const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
      incoming.on('error', () => undefined)
      await once(incoming, 'data')
      outgoing.destroy()
      const logged = await line(nth++)
      t.match(logged, { msg: 'client left', level: 30, status: 200 })
      t.ok((logged['bytes'] as number) < BIG.length)
      t.equal(repository.sourcesOpen + repository.answersOpen, 0)
      t.ok(repository.signals.at(-1)?.aborted)
    }
  }
})

test('what was pipelined behind the answer that a client leaves is never begun', async (t) => {
  const { port, repository, line } = await serveFake(t)
  repository.behaviour = { stallAt: 0 }
  const digest = repository.addBlob(BIG)
  const socket = await open(port)
  socket.write(`GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(2))
  await once(socket, 'data')
  socket.destroy()
  t.match(await line(1), { msg: 'client left', bytes: 0 })
  t.equal(repository.calls.length, 1)
})

test('a client that leaves before the head aborts what was begun for it', async (t) => {
  const { port, repository, line } = await serveFake(t)
  repository.manifest = async (_reference, signal) => {
    repository.signals.push(signal)
    socket.destroy()
    await once(signal, 'abort')
    signal.throwIfAborted()
    return undefined
  }
  const socket = await open(port)
  socket.write('GET /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\n\r\n')
  t.match(await line(0), { msg: 'client left', bytes: 0 })
  t.ok(repository.signals[0]?.aborted)
})

test('a slow reader holds its source back and a few buffers, no more', async (t) => {
  const { port, repository, line } = await serveFake(t)
  const digest = repository.addBlob(BIG)
  for (const [nth, unverified] of [false, true].entries()) {
    repository.unverified = unverified
    repository.bytesRead = 0
    const socket = await open(port)
    socket.on('error', () => undefined)
    socket.pause()
    socket.write(`GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
    // It stops by itself when the kernel's buffers are full: wait until nothing moves any more.
    const read = await standstill(() => repository.bytesRead)
    t.ok(read < 16 * 1024 * 1024, `${read} bytes were read for it`)
    socket.destroy()
    await line(nth)
  }
})

test('a client that takes nothing is dropped', async (t) => {
  const { url, repository, lines } = await serveFake(t, { timeouts: { idleMs: 200 } })
  const digest = repository.addBlob(BIG)
  const socket = await askAndTakeNothing(t, url, `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
  const given = (): LogLine | undefined => lines.find(({ status }) => status === 200)
  await eventually('its line is written', () => given() !== undefined)
  t.match(given(), { msg: 'client left', timedOut: true })
  t.ok((given()?.['bytes'] as number) < BIG.length)
  t.equal(repository.sourcesOpen + repository.answersOpen, 0)
  t.equal(socket.destroyed, false, 'it has not left by itself')
})

test('a client that announces a body and sends none is dropped', async (t) => {
  const { port } = await serveFake(t, { timeouts: { idleMs: 100, keepAliveMs: 100 } })
  let text = ''
  // Where the machine is busy, so short a time may be over before any of it was read.
  await eventually('it is answered, and then dropped', async () => {
    text = await raw(port, 'PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n')
    return text !== ''
  })
  t.equal(replies(text)[0]?.status, 405)
})

test('a connection that is not used again is closed after a while', async (t) => {
  const { port } = await serveFake(t, { timeouts: { keepAliveMs: 50, checkMs: 50 } })
  t.equal(replies(await raw(port, 'GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n')).length, 1)
})

test('beyond the most connections the one that is idle for longest gives way', async (t) => {
  const met: string[] = []
  const { port } = await serveFake(t, {
    mostConnections: 3,
    openFiles: { met: (what) => void met.push(what) },
  })
  const ask = async (socket: Socket, path = '/v2/'): Promise<string> => {
    const said = once(socket, 'data')
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    return String((await said)[0])
  }
  const [first, second, third] = [await open(port), await open(port), await open(port)]
  for (const it of [second, first, third]) t.match(await ask(it), /^HTTP\/1.1 200/)
  const gone = once(second, 'close')
  const fourth = await open(port)
  t.match(await ask(fourth), /^HTTP\/1.1 200/)
  await gone
  for (const it of [first, third, fourth]) t.match(await ask(it), /^HTTP\/1.1 200/, 'these stay')
  t.same(met, [])
  for (const it of [first, third, fourth]) it.destroy()
})

test('where none is idle, who comes is told so, and who watches the process is answered', async (t) => {
  const met: string[] = []
  const { port, repository } = await serveFake(t, {
    mostConnections: 2,
    openFiles: { met: (what) => void met.push(what) },
  })
  const digest = repository.addBlob(BIG)
  const busy = [await open(port), await open(port)]
  for (const it of busy) {
    const begun = once(it, 'readable')
    it.write(`GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await begun
  }
  const refused = replies(await raw(port, 'GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n'))
  t.match(refused, [
    {
      status: 503,
      code: 'UNAVAILABLE',
      head: /retry-after: 10\r[^]*connection: close|connection: close\r[^]*retry-after: 10/i,
    },
  ])
  t.match(refused[0]!.body, 'this process may open no more files or connections')
  for (const path of ['/livez', '/readyz', '/metrics']) {
    t.match(await raw(port, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`), /^HTTP\/1.1 200/, path)
  }
  t.ok(met.length >= 4 && met.includes('connection'))

  const flood = await Promise.all(Array.from({ length: 100 }, () => raw(port, '')))
  t.ok(flood.filter((said) => said === '').length >= 68, 'the rest is closed at once')
  const over = once(busy[0]!, 'close')
  busy[0]!.destroy()
  await over
  await eventually('there is a place again', async () =>
    (await raw(port, 'GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')).startsWith('HTTP/1.1 200'),
  )
  busy[1]!.destroy()
})

test('the most connections may become fewer, or more, while it runs', async (t) => {
  const { server, port } = await serveFake(t, { mostConnections: 3 })
  const ask = async (socket: Socket): Promise<string> => {
    const said = once(socket, 'data')
    socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n')
    return String((await said)[0])
  }
  const sockets: Socket[] = []
  const another = async (): Promise<Socket> => {
    const socket = await open(port)
    sockets.push(socket)
    t.match(await ask(socket), /^HTTP\/1.1 200/)
    return socket
  }
  const first = await another()
  await another()
  server.limitConnections(1)
  const gone = once(first, 'close')
  await another()
  await gone
  server.limitConnections(5)
  const held = [await another(), await another()]
  for (const it of held) t.match(await ask(it), /^HTTP\/1.1 200/, 'these stay')
  for (const it of sockets) it.destroy()
})
