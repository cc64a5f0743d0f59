/** The end of the server: what runs may finish, what takes too long is broken off, nothing new begins. */
import { once } from 'node:events'
import { Agent, request, type IncomingMessage } from 'node:http'
import { test } from 'tap'
import { call, open, raw, replies, serveFake } from '../support/http-fakes.ts'

const BLOB = Buffer.alloc(200_000, 'drain')

/** A GET of which the first bytes have come, while the source waits for `go`. */
async function half(url: string): Promise<{ incoming: IncomingMessage; body: Promise<Buffer> }> {
  const outgoing = request(url, { agent: new Agent({ keepAlive: true }) })
  outgoing.on('error', () => undefined)
  outgoing.end()
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
  const chunks: Buffer[] = []
  incoming.on('error', reject).on('end', () => resolve(Buffer.concat(chunks)))
  incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
  promise.catch(() => undefined)
  await once(incoming, 'data')
  return { incoming, body: promise }
}

test('a running answer comes to its end, and only then the server', async (t) => {
  const { url, port, repository, server, lines } = await serveFake(t)
  repository.behaviour = { chunk: 1000 }
  const gate = Promise.withResolvers<undefined>()
  const blob = repository.blob.bind(repository)
  repository.blob = async (digest, options) => {
    const answer = await blob(digest, options)
    if (!answer) return undefined
    return {
      ...answer,
      open: async (range, signal) => {
        const source = await answer.open(range, signal)
        let reads = 0
        return {
          read: async (buffer, readSignal) => {
            if (++reads > 10) await gate.promise
            return source.read(buffer, readSignal)
          },
          [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
        }
      },
    }
  }
  const { body } = await half(`${url}/v2/a/blobs/${repository.addBlob(BLOB)}`)
  const idle = await open(port)
  const closed = server.close(30_000).then(() => lines.length)
  await once(idle, 'close')
  await t.rejects(call(`${url}/v2/`), { code: 'ECONNREFUSED' }, 'nothing new is accepted')
  gate.resolve(undefined)
  t.ok((await body).equals(BLOB))
  t.equal(await closed, 1, 'the request was logged before the server was closed')
})

test('what runs longer than the grace is broken off', async (t) => {
  const { url, repository, server } = await serveFake(t)
  repository.behaviour = { stallAt: 100_000 }
  const { body } = await half(`${url}/v2/a/blobs/${repository.addBlob(BLOB)}`)
  await server.close(50)
  await t.rejects(body, { code: 'ECONNRESET' })
  t.equal(repository.sourcesOpen + repository.answersOpen, 0)
})

test('breaking off is seen also where the end of the connection would end the body', async (t) => {
  const { port, repository, server } = await serveFake(t)
  Object.assign(repository, { unknownSize: true, behaviour: { stallAt: 1000 } })
  const socket = await open(port)
  socket.write(`GET /v2/a/blobs/${repository.addBlob(BLOB)} HTTP/1.0\r\n\r\n`)
  await once(socket, 'data')
  const reset = new Promise((resolve) => socket.once('error', resolve))
  await server.close(0)
  t.match(await reset, { code: 'ECONNRESET' })
})

test('half a request holds nothing up', async (t) => {
  const { port, server } = await serveFake(t)
  const socket = await open(port)
  socket.on('error', () => undefined)
  socket.write('GET /v2/ HTTP/1.1\r\nHost:')
  const gone = new Promise((resolve) => socket.once('close', resolve))
  await server.close(30_000)
  await gone
  t.pass('closed')
})

test('an answer that begins while it drains says that it is the last', async (t) => {
  const { port, repository, server } = await serveFake(t)
  const gate = Promise.withResolvers<undefined>()
  repository.addManifest('m', Buffer.from('{}'))
  const manifest = repository.manifest.bind(repository)
  const called = Promise.withResolvers<undefined>()
  repository.manifest = async (...all) => {
    called.resolve(undefined)
    await gate.promise
    return manifest(...all)
  }
  const answer = raw(port, 'GET /v2/a/manifests/m HTTP/1.1\r\nHost: x\r\n\r\n')
  await called.promise
  const closed = server.close(30_000)
  gate.resolve(undefined)
  const [reply] = replies(await answer)
  t.equal(reply?.status, 200)
  t.match(reply?.head, /^connection: close$/im)
  await closed
})

test('probes are answered while it drains, on connections that are busy', async (t) => {
  const { port, repository, server } = await serveFake(t)
  const gate = Promise.withResolvers<undefined>()
  const digest = repository.addBlob(BLOB)
  const blob = repository.blob.bind(repository)
  repository.blob = async (...all) => {
    const answer = await blob(...all)
    if (!answer) return undefined
    const open: typeof answer.open = async (...range) => {
      const source = await answer.open(...range)
      return {
        read: async (...into) => {
          await gate.promise
          return source.read(...into)
        },
        [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
      }
    }
    return { ...answer, open }
  }
  const socket = await open(port)
  const gone = once(socket, 'close')
  let text = ''
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
  const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`
  socket.write(get(`/v2/a/blobs/${digest}`) + get('/readyz'))
  await once(socket, 'data')
  const closed = server.close(30_000)
  gate.resolve(undefined)
  await Promise.all([closed, gone])
  const [whole, ready] = replies(text)
  t.equal(whole?.body.length, BLOB.length)
  t.equal(ready?.status, 503)
  t.match(ready?.body, '"status":"draining"')
})

test('closing twice, or what never listened, is no error', async (t) => {
  const { server } = await serveFake(t)
  await Promise.all([server.close(0), server.close(0)])
  await server.close(0)
  t.pass('closed')
})

test('a port that is taken is the error of the system', async (t) => {
  const { port } = await serveFake(t)
  const other = await serveFake(t)
  await other.server.close(0)
  const { HttpServer } = await import('../../src/http/server.ts')
  const { pino } = await import('pino')
  const server = new HttpServer({
    registry: other.registry,
    search: { find: () => Promise.resolve([]) },
    explain: () => Promise.reject(new Error('nobody asks')),
    events: { pulled: () => undefined },
    metrics: other.metrics,
    log: pino({ level: 'silent' }),
  })
  await t.rejects(server.listen('127.0.0.1', port), { code: 'EADDRINUSE', port })
  await server.close(0)
})
