/** What an exchange guards against, whatever its handler does. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { test, type Test } from 'tap'
import { Exchange } from '../../src/http/exchange.ts'
import { OciError } from '../../src/oci/errors.ts'
import { call, replies } from '../support/http-fakes.ts'

async function serveWith(t: Test, handle: (exchange: Exchange) => void): Promise<string> {
  const server = createServer((request, response) => handle(new Exchange(request, response)))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/v2/`
}

test('a body that is shorter or longer than announced is an error here, not there', async (t) => {
  const url = await serveWith(t, (exchange) => {
    exchange.sendHead(200, { 'Content-Length': 10 })
    exchange.response.write('abc')
    t.throws(() => exchange.response.end(), { code: 'ERR_HTTP_CONTENT_LENGTH_MISMATCH' })
    t.throws(() => exchange.response.write('a long end'), { code: 'ERR_HTTP_CONTENT_LENGTH_MISMATCH' })
    exchange.fail(new Error('no'))
  })
  await t.rejects(call(url), { code: 'ECONNRESET' })
})

test('writing after the end fails quietly', async (t) => {
  const told = Promise.withResolvers<unknown>()
  const url = await serveWith(t, ({ response }) => {
    response.end()
    response.write('x', told.resolve)
  })
  t.equal((await call(url)).status, 200)
  t.match(await told.promise, { code: 'ERR_STREAM_WRITE_AFTER_END' })
})

test('only the first failure before the head becomes an answer, later ones break it off', async (t) => {
  const url = await serveWith(t, (exchange) => {
    exchange.sendHead(200, { 'Content-Length': 10 })
    exchange.fail(new Error('first'))
    exchange.fail(new Error('second'))
    t.match(exchange.failure, { message: 'first' })
  })
  await t.rejects(call(url), { code: 'ECONNRESET' })
})

test('whoever is refused a large body gets to read the answer, when it looks for it after some of the body', async (t) => {
  const MiB = 1024 * 1024
  const refuse = (request: IncomingMessage, response: ServerResponse): void => {
    const exchange = new Exchange(request, response)
    exchange.sendContinue()
    // In the middle of it, as where the disk is full.
    request.once('data', () => exchange.fail(new OciError('DENIED')))
  }
  const server = createServer(refuse).on('checkContinue', refuse).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  for (const headers of ['', 'Expect: 100-continue\r\n']) {
    const socket = connect(port, '127.0.0.1')
    let text = ''
    socket.on('data', (piece: Buffer) => (text += piece.toString('latin1'))).pause()
    const closed = new Promise((resolve) => socket.on('error', () => undefined).once('close', resolve))
    socket.write(`PUT /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\n${headers}Content-Length: ${64 * MiB}\r\n\r\n`)
    for (let sent = 0; sent < 4 * MiB && !socket.destroyed; sent += MiB) {
      await new Promise((resolve) => socket.write(Buffer.alloc(MiB), resolve))
    }
    socket.resume()
    await closed
    const answer = replies(text).at(-1)
    t.equal(answer?.code, 'DENIED')
    t.match(answer?.head, /^connection: close$/im)
  }
})
