/**
 * Ports at which nobody answers: neither refused nor served.
 */
import { connect, createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'

export interface Silence {
  readonly kind: 'connect' | 'tls'
  /** The port is free again. */
  end(): Promise<void>
}

/** Connections come about, and not a byte ever comes: what a TLS handshake hangs in. */
export async function acceptSilently(port: number, host: string): Promise<Silence> {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
    socket.resume()
  })
  server.listen(port, host)
  await once(server, 'listening')
  return {
    kind: 'tls',
    end: async () => {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

const LISTENER = `
  const { parentPort, workerData } = require('node:worker_threads')
  const { port, host, gate } = workerData
  const server = require('node:net').createServer((socket) => socket.destroy())
  server.listen({ port, host, backlog: 1 }, () => {
    parentPort.postMessage('listening')
    // Sleeps without taking a single connection from the queue.
    setImmediate(() => {
      Atomics.wait(gate, 0, 0)
      server.close()
    })
  })
`

/** Connections do not come about: the queue of those to be accepted is full, and nobody accepts any. */
export async function neverAccept(port: number, host: string): Promise<Silence> {
  const gate = new Int32Array(new SharedArrayBuffer(4))
  const worker = new Worker(LISTENER, { eval: true, workerData: { port, host, gate } })
  await once(worker, 'message')
  const queue = await fillQueue(port, host)
  return {
    kind: 'connect',
    end: async () => {
      Atomics.store(gate, 0, 1)
      Atomics.notify(gate, 0)
      for (const socket of queue) socket.destroy()
      await once(worker, 'exit')
    },
  }
}

/** Connects until one does not come about any more. */
async function fillQueue(port: number, host: string): Promise<Socket[]> {
  const queue: Socket[] = []
  for (;;) {
    const socket = connect(port, host)
    socket.on('error', () => undefined)
    queue.push(socket)
    const came = await Promise.race([
      once(socket, 'connect').then(() => true),
      new Promise<false>((resolve) => {
        setTimeout(resolve, 200, false)
      }),
    ])
    if (!came) return queue
  }
}
