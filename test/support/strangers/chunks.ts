/**
 * A process of its own: connections that send one request each, whose body is of chunks of one byte and never ends, and
 * come again when they are closed.
 *
 * `node chunks.ts PORT CONNECTIONS SECONDS METHOD PATH`: prints how often it connected, when it has left.
 */
import { connect, type Socket } from 'node:net'

const [port = '', connections = '', seconds = '', method = '', path = ''] = process.argv.slice(2)
const HEAD = `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nTransfer-Encoding: chunked\r\n\r\n`
const BODY = Buffer.from('1\r\nx\r\n'.repeat(10_000))

const sockets = new Set<Socket>()
let connected = 0
let over = false

function begin(): void {
  const socket = connect(Number(port), '127.0.0.1')
  sockets.add(socket)
  const more = (): void => {
    while (!socket.destroyed && socket.write(BODY));
  }
  socket
    .on('connect', () => {
      connected += 1
      socket.write(HEAD)
      more()
    })
    .on('drain', more)
    .on('error', () => undefined)
    .on('close', () => {
      sockets.delete(socket)
      if (!over) setImmediate(begin)
    })
    .resume()
}

for (let at = 0; at < Number(connections); at += 1) begin()
setTimeout(
  () => {
    over = true
    for (const socket of sockets) socket.destroy()
    console.log(`connected ${connected} times`)
  },
  Number(seconds) * 1000,
)
