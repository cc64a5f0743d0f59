/**
 * The process of {@link Herd}. Orders come one at a time.
 */
import { createHash, type Hash } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import type { HerdOrder, Pulled } from './herd.ts'

/**
 * All sockets read into it: what is read is looked at before anybody else reads. A larger one would be unfair: the
 * event loop stays with a socket for 32 buffers, while there is more.
 */
const buffer = Buffer.allocUnsafeSlow(64 * 1024)
const HEAD_END = Buffer.from('\r\n\r\n')

/** A connection on which one request follows the other. */
class Lane {
  readonly #socket: Socket
  readonly #host: string
  #head: Buffer | undefined
  /** Of the body. */
  #left = 0
  #hash: Hash | undefined
  #onByte: () => void = () => undefined
  #done = Promise.withResolvers<undefined>()

  constructor({ hostname, port, host }: URL) {
    this.#host = host
    this.#socket = connect({
      host: hostname,
      port: Number(port),
      onread: {
        buffer,
        callback: (count) => {
          this.#read(buffer.subarray(0, count))
          return true
        },
      },
    })
    this.#done.promise.catch(() => undefined)
    this.#socket
      .on('error', (error) => this.#done.reject(error))
      .on('close', () => this.#done.reject(new Error('the connection was closed')))
  }

  /** @throws when the answer is not a whole 200 of that size, or not those bytes */
  async get(
    path: string,
    size: number | undefined,
    digest: string | undefined,
    onByte: () => void,
  ): Promise<void> {
    this.#head = Buffer.alloc(0)
    this.#left = size ?? NaN
    this.#hash = digest === undefined ? undefined : createHash('sha256')
    this.#onByte = onByte
    this.#done = Promise.withResolvers()
    if (this.#socket.destroyed) throw new Error('the connection was closed')
    const accept = path.includes('/manifests/') ? 'application/vnd.oci.image.manifest.v1+json' : '*/*'
    this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: ${this.#host}\r\nAccept: ${accept}\r\n\r\n`)
    await this.#done.promise
    if (this.#hash !== undefined && `sha256:${this.#hash.digest('hex')}` !== digest) {
      throw new Error(`${path}: other bytes`)
    }
  }

  close(): void {
    this.#socket.destroy()
  }

  #read(bytes: Buffer): void {
    let body = bytes
    if (this.#head !== undefined) {
      const head = Buffer.concat([this.#head, bytes])
      const end = head.indexOf(HEAD_END)
      if (end < 0) {
        this.#head = head
        return
      }
      this.#head = undefined
      body = head.subarray(end + HEAD_END.length)
      if (!this.#understands(head.toString('latin1', 0, end))) return
    }
    if (body.length > 0) this.#onByte()
    this.#hash?.update(body)
    this.#left -= body.length
    if (this.#left === 0) this.#done.resolve(undefined)
    else if (this.#left < 0) this.#done.reject(new Error('more came than was promised'))
  }

  #understands(head: string): boolean {
    const length = Number(/^content-length: (\d+)/im.exec(head)?.[1])
    const wanted = Number.isNaN(this.#left) ? length : this.#left
    if (/^HTTP\/1\.1 200 /.test(head) && length === wanted) {
      this.#left = length
      return true
    }
    this.#done.reject(new Error(`not what was asked for: ${head}`))
    return false
  }
}

async function pull({ url, lanes, manifest, blobs }: HerdOrder, isSample: boolean): Promise<Pulled> {
  const began = performance.now()
  let firstByteMs = NaN
  const onByte = (): void => {
    if (Number.isNaN(firstByteMs)) firstByteMs = performance.now() - began
  }
  const base = new URL(url)
  const open = [new Lane(base)]
  try {
    await open[0]?.get(manifest, undefined, undefined, () => undefined)
    while (open.length < Math.min(lanes, blobs.length)) open.push(new Lane(base))
    const queue = [...blobs]
    const work = async (lane: Lane): Promise<void> => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        await lane.get(next.path, next.size, isSample ? next.digest : undefined, onByte)
      }
    }
    await Promise.all(open.map(work))
    const bytes = blobs.reduce((sum, { size }) => sum + size, 0)
    return { firstByteMs, doneMs: performance.now() - began, bytes }
  } finally {
    for (const lane of open) lane.close()
  }
}

process.on('message', (order: HerdOrder) => {
  Promise.all(Array.from({ length: order.clients }, (_, at) => pull(order, at === 0))).then(
    (pulled) => process.send?.({ pulled }),
    (error: unknown) => process.send?.({ error: String(error) }),
  )
})
process.on('disconnect', () => process.exit(0))
