/**
 * The process of {@link heads}: each connection sends its next request when the head of an answer has come. An answer
 * to HEAD has no body, so a head is all of it. Prints one JSON line and ends.
 */
import { connect, type Socket } from 'node:net'
import type { HeadsOrder, HeadsResult } from './heads.ts'

const order = JSON.parse(process.argv[2] ?? '') as HeadsOrder
const { host, port, connections, seconds } = order
const request = Buffer.from(order.request)
const END = '\r\n\r\n'

/** Of each answer, in microseconds. */
const took: number[] = []
let bytes = 0
let errors = 0
const began = performance.now()
const until = began + seconds * 1000
const sockets = Array.from({ length: connections }, open)
setTimeout(() => {
  const elapsed = (performance.now() - began) / 1000
  for (const socket of sockets) socket.destroy()
  took.sort((one, other) => one - other)
  const percentile = (share: number): number => (took[Math.floor(took.length * share)] ?? NaN) / 1000
  const result: HeadsResult = {
    requestsPerSecond: took.length / elapsed,
    bytes,
    seconds: elapsed,
    p50Ms: percentile(0.5),
    p99Ms: percentile(0.99),
    errors,
  }
  console.log(JSON.stringify(result))
}, until - performance.now())

function open(): Socket {
  let head = ''
  let sentAt = performance.now()
  const socket: Socket = connect({
    ...{ host, port, noDelay: true },
    // One buffer for all that this connection ever reads.
    onread: {
      buffer: Buffer.alloc(16 * 1024),
      callback: (length, buffer) => {
        bytes += length
        head += (buffer as Buffer).toString('latin1', 0, length)
        if (!head.endsWith(END)) return true
        const now = performance.now()
        took.push((now - sentAt) * 1000)
        // Whatever else came with it: one answer at a time was asked for.
        if (!head.startsWith('HTTP/1.1 200') || head.indexOf(END) !== head.length - END.length) errors++
        head = ''
        sentAt = now
        socket.write(request)
        return true
      },
    },
  })
  socket.on('error', () => errors++)
  socket.on('end', () => errors++)
  socket.write(request)
  return socket
}
