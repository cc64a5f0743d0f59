/**
 * sendfile(2) of a whole or growing file into a response: the kernel moves the bytes, and no call blocks.
 * On an encrypted connection, or where the configuration says so, the main thread copies the bytes that are in the page
 * cache, because waking another thread costs more than the copy.
 *
 * A body is sent in turns. The kernel sends from the file what the socket takes; when the socket is full, a small piece
 * goes through an ordinary write, whose callback reports room, and the connection's errors. So no call waits for the
 * client. None waits for the disk either: bytes outside the page cache are read in a thread, and a file that has once
 * been slow is read that way to its end.
 */
import fs from 'node:fs'
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { GrowingRange, StoredRange } from '../../storage/blobs/blob-store.ts'
import { CopyBuffer, type BufferPool } from './buffer-pool.ts'
import type { LinuxSyscalls } from './linux-syscalls.ts'
import { ResponseWriter } from './response-writer.ts'
import { FairQueue } from './fair-queue.ts'

/** Limit of one call. */
const TURN = 4 * 1024 * 1024
/**
 * A client that has taken so much of one body at 500 MB/s gets a larger send buffer, because every refill costs a turn
 * of the event loop. The buffer is memory of the kernel, so at most MAX_WIDE clients have one, and no slow ones.
 */
const WORTH_WIDENING = 32 * 1024 * 1024
const WIDEN_BYTES_PER_MS = 500 * 1024
const MAX_WIDE = 16
/** Limit of one call while many wait: a socket that always has room must not get ahead of the others. */
const SHARE = 1024 * 1024
const SMALL = 16 * 1024
/** A call that is served from memory takes 1 to 2 ms; a longer one may have waited for the disk. */
const SLOW_MS = 20

/** Shared by all responses of the process, which has one event loop. */
const queue = new FairQueue()
/** Sockets whose send buffer was enlarged, until they are closed. */
const wide = new Set<Socket>()

interface SendFileOptions {
  readonly kernel: LinuxSyscalls
  readonly pool: BufferPool
  /** Copy through this process's memory, as an encrypted connection requires. */
  readonly copying: boolean
  readonly signal: AbortSignal
  /** Called with the number of bytes that the kernel has taken. */
  readonly onBytes: (count: number) => void
  /** Milliseconds; measures the client's speed. */
  readonly now?: () => number
}

/** Whether the response goes over a plain connection whose descriptor is known. */
export function takesFiles(response: ServerResponse): boolean {
  return descriptorOf(response) !== undefined && !('encrypted' in (response.socket ?? {}))
}

/**
 * Resolves when the kernel has taken the last byte; does not end the response.
 *
 * @returns bytes: all of the range
 * @throws when the client leaves or the file is shorter than its range; the caller must then break the response off
 */
export async function sendFile(
  file: StoredRange,
  response: ServerResponse,
  options: SendFileOptions,
): Promise<number> {
  let { start } = file
  const { end } = file
  const all: GrowingRange = {
    there: () => Promise.resolve({ ...file, start }),
    took: (count) => (start += count),
  }
  return await sendGrowing(all, end - start, response, options)
}

/**
 * Like {@link sendFile}, for a file that still grows: `length` bytes, or fewer when the rest is in no file.
 *
 * @returns bytes that the kernel has taken
 * @throws also the source's errors
 */
export async function sendGrowing(
  source: GrowingRange,
  length: number,
  response: ServerResponse,
  options: SendFileOptions,
): Promise<number> {
  // Node counts only the bytes that it writes itself, and would find the body too short.
  response.strictContentLength = false
  using writer = new ResponseWriter(response, options.signal)
  const sender = new Sender(source, length, response, writer, options)
  while (sender.sent < length) {
    const range = await source.there(options.signal)
    if (range === undefined) break
    const end = Math.min(range.end, range.start + length - sender.sent)
    if (end <= range.start) throw new Error(`the source ended after ${sender.sent} of ${length} bytes`)
    await sender.turn({ ...range, end })
  }
  return sender.sent
}

class Sender {
  sent = 0
  readonly #source: GrowingRange
  readonly #response: ServerResponse
  readonly #writer: ResponseWriter
  readonly #options: SendFileOptions
  readonly #now: () => number
  readonly #copyBuffer: CopyBuffer
  readonly #small = Buffer.allocUnsafe(SMALL)
  #isSlow = false
  /** Time at which the head was sent. Before that the socket may still carry the previous answer. */
  #begunAt: number | undefined

  constructor(
    source: GrowingRange,
    length: number,
    response: ServerResponse,
    writer: ResponseWriter,
    options: SendFileOptions,
  ) {
    this.#source = source
    this.#response = response
    this.#writer = writer
    this.#options = options
    this.#now = options.now ?? performance.now.bind(performance)
    this.#copyBuffer = new CopyBuffer(options.pool, writer, { length, now: this.#now })
  }

  /** Sends as much of the range as the limits of one turn allow. */
  async turn(range: StoredRange): Promise<void> {
    if (this.#begunAt === undefined) {
      const first = this.#small.subarray(0, range.end - range.start)
      await this.#write(first.subarray(0, await range.read(first, range.start)), range.start)
      this.#begunAt = this.#now()
      this.#writer.headHasLeft()
      return
    }
    if (this.#options.copying) {
      await queue.run(() => this.#copy(range, range.start))
      return
    }
    const { position, next } = await queue.run(() => this.#send(range))
    if (next === 'read') await this.#copy(range, position)
    else if (next !== undefined) await this.#write(next, position)
  }

  /**
   * Synchronous, so that the file cannot be closed meanwhile.
   *
   * @returns the position reached, and the piece to write next; `read`: it is not in the page cache
   */
  #send({ descriptor, start, end }: StoredRange): { position: number; next: Buffer | 'read' | undefined } {
    const { kernel, signal } = this.#options
    signal.throwIfAborted()
    const socket = descriptorOf(this.#response)
    const most = start + (queue.crowded ? SHARE : TURN)
    const limit = this.#isSlow ? start : kernel.cachedUpTo(descriptor, start, Math.min(end, most))
    if (limit === start) return { position: start, next: 'read' }
    let position = start
    if (socket !== undefined) {
      position += this.#watch(() => kernel.sendFile(socket, descriptor, start, limit - start))
      this.#took(position - start)
    }
    if (position === limit) return { position, next: undefined }
    const length = fs.readSync(descriptor, this.#small, 0, Math.min(SMALL, limit - position), position)
    return { position, next: this.#small.subarray(0, length) }
  }

  /** Copies one piece; synchronously if it is in the page cache. */
  async #copy(range: StoredRange, position: number): Promise<void> {
    // The client may have left while its turn was pending; then no buffer is taken.
    this.#options.signal.throwIfAborted()
    const count = await this.#copyBuffer.pass(
      range.end - position,
      (buffer) => this.#readNow(range.descriptor, buffer, position) ?? range.read(buffer, position),
    )
    if (count === 0) throw new Error(`the file is shorter than it was: ${position} bytes`)
    this.#took(count)
  }

  /** Reads here, because waking a thread costs more than reading the page cache. Undefined: the bytes are not in it. */
  #readNow(descriptor: number, buffer: Buffer, position: number): number | undefined {
    if (this.#isSlow) return undefined
    const end = this.#options.kernel.cachedUpTo(descriptor, position, position + buffer.length)
    if (end === position) return undefined
    return this.#watch(() => fs.readSync(descriptor, buffer, 0, end - position, position))
  }

  /** Times a call that should not wait; once it has waited for the disk, the rest of the file is read in a thread. */
  #watch(call: () => number): number {
    const { kernel } = this.#options
    const waits = kernel.voluntarySwitches()
    const startedAt = performance.now()
    const count = call()
    this.#isSlow = performance.now() - startedAt > SLOW_MS && kernel.voluntarySwitches() > waits
    return count
  }

  async #write(bytes: Buffer, position: number): Promise<void> {
    if (bytes.length === 0) throw new Error(`the file is shorter than it was: ${position} bytes`)
    await this.#writer.write(bytes)
    this.#took(bytes.length)
  }

  #took(count: number): void {
    if (count === 0) return
    this.sent += count
    this.#source.took(count)
    this.#options.onBytes(count)
    const { socket } = this.#response
    if (socket === null) return
    // Node has not seen these bytes, and its idle timeout would close the connection.
    if (socket.timeout !== undefined) socket.setTimeout(socket.timeout)
    if (this.sent > WORTH_WIDENING && wide.size < MAX_WIDE && !wide.has(socket)) this.#growSendBuffer(socket)
  }

  #growSendBuffer(socket: Socket): void {
    const took = this.#now() - (this.#begunAt ?? 0)
    const descriptor = descriptorOf(this.#response)
    if (descriptor === undefined || this.sent < took * WIDEN_BYTES_PER_MS) return
    wide.add(socket)
    socket.once('close', () => wide.delete(socket))
    this.#options.kernel.growSendBuffer(descriptor)
  }
}

/** Undefined once the socket is closed: the number may by then belong to another file. */
function descriptorOf({ socket }: ServerResponse): number | undefined {
  if (socket === null || socket.destroyed) return undefined
  const { _handle: handle } = socket as { _handle?: { readonly fd?: number } | null }
  const { fd } = handle ?? {}
  return fd === undefined || fd < 0 ? undefined : fd
}
