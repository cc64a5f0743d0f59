/**
 * A file into a response, by the kernel alone: our threads never touch the bytes. It may be growing still. Where the
 * connection is encrypted, or somebody wants it so, the main thread copies them: none is woken for what is in memory.
 *
 * Turn by turn: what the socket takes goes straight from the file; when it takes no more, a small piece goes the
 * ordinary way, and its callback tells that there is room again. So no call of ours ever waits for the client, and
 * whatever goes wrong with the connection shows in that ordinary write. Nor does one wait for the disk: what is not
 * in memory is read the ordinary way, and a file that was slow once is read so to its end.
 */
import fs from 'node:fs'
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { GrowingRange, StoredRange } from '../../storage/blobs/blob-store.ts'
import { CopyBuffer, type BufferPool } from './buffer-pool.ts'
import type { LinuxSyscalls } from './linux-syscalls.ts'
import { ResponseWriter } from './response-writer.ts'
import { FairQueue } from './fair-queue.ts'

/** In one call. */
const TURN = 4 * 1024 * 1024
/**
 * Who has taken so much of one body, and that at half a GB a second, is given a wider buffer: each fill of it costs a
 * turn of the loop. What waits in it is the kernel's memory, so it is for a few, and for nobody who is slow.
 */
const WORTH_WIDENING = 32 * 1024 * 1024
const WIDEN_BYTES_PER_MS = 500 * 1024
const MAX_WIDE = 16
/** Where many wait: of sockets that have room for more, and some always have, none is to get ahead of the others. */
const SHARE = 1024 * 1024
const SMALL = 16 * 1024
/** A call from memory takes a millisecond or two. */
const SLOW_MS = 20

/** There is one event loop. */
const rota = new FairQueue()
/** Those that were, until they are closed. */
const wide = new Set<Socket>()

interface SendFileOptions {
  readonly kernel: LinuxSyscalls
  readonly pool: BufferPool
  /** Through our memory, whatever the connection could take. Encrypted ones must be. */
  readonly copying: boolean
  readonly signal: AbortSignal
  /** Called with what the kernel has taken. */
  readonly onBytes: (count: number) => void
  /** Milliseconds; by it a client is found quick. */
  readonly now?: () => number
}

/** Whether that response goes out as it is, over a plain connection. */
export function takesFiles(response: ServerResponse): boolean {
  return descriptorOf(response) !== undefined && !('encrypted' in (response.socket ?? {}))
}

/**
 * Resolves when the kernel has taken the last byte; does not end the response.
 *
 * @returns bytes: all of the range
 * @throws when the client leaves or the file is shorter than its range; the response must then be broken off
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
 * The same of a file that is still coming, as far as it comes: `length` bytes, or fewer when the rest is in no file.
 *
 * @returns bytes that the kernel has taken
 * @throws also what the source throws
 */
export async function sendGrowing(
  source: GrowingRange,
  length: number,
  response: ServerResponse,
  options: SendFileOptions,
): Promise<number> {
  // It counts what passes through it, and most of this will not.
  response.strictContentLength = false
  using outlet = new ResponseWriter(response, options.signal)
  const sender = new Sender(source, length, response, outlet, options)
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
  readonly #outlet: ResponseWriter
  readonly #options: SendFileOptions
  readonly #now: () => number
  readonly #bounce: CopyBuffer
  readonly #small = Buffer.allocUnsafe(SMALL)
  #isSlow = false
  /** When the head had left; until then the socket may be another answer's. */
  #begunAt: number | undefined

  constructor(
    source: GrowingRange,
    length: number,
    response: ServerResponse,
    outlet: ResponseWriter,
    options: SendFileOptions,
  ) {
    this.#source = source
    this.#response = response
    this.#outlet = outlet
    this.#options = options
    this.#now = options.now ?? performance.now.bind(performance)
    this.#bounce = new CopyBuffer(options.pool, outlet, { length, now: this.#now })
  }

  /** As much of it as goes at once. */
  async turn(range: StoredRange): Promise<void> {
    if (this.#begunAt === undefined) {
      const first = this.#small.subarray(0, range.end - range.start)
      await this.#write(first.subarray(0, await range.read(first, range.start)), range.start)
      this.#begunAt = this.#now()
      this.#outlet.headHasLeft()
      return
    }
    if (this.#options.copying) {
      await rota.run(() => this.#copy(range, range.start))
      return
    }
    const { position, next } = await rota.run(() => this.#send(range))
    if (next === 'read') await this.#copy(range, position)
    else if (next !== undefined) await this.#write(next, position)
  }

  /**
   * Does not wait, and is not waited for by anybody who would close the file meanwhile.
   *
   * @returns how far it came, and what is to go the ordinary way now: a piece, or one that is yet to be read
   */
  #send({ descriptor, start, end }: StoredRange): { position: number; next: Buffer | 'read' | undefined } {
    const { kernel, signal } = this.#options
    signal.throwIfAborted()
    const socket = descriptorOf(this.#response)
    const most = start + (rota.crowded ? SHARE : TURN)
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

  /** One piece through our memory: it is on its way when this returns, where nobody has to wait for the disk. */
  async #copy(range: StoredRange, position: number): Promise<void> {
    // It may have waited for its turn: whoever has left needs no buffer.
    this.#options.signal.throwIfAborted()
    const count = await this.#bounce.pass(
      range.end - position,
      (buffer) => this.#readNow(range.descriptor, buffer, position) ?? range.read(buffer, position),
    )
    if (count === 0) throw new Error(`the file is shorter than it was: ${position} bytes`)
    this.#took(count)
  }

  /** What is in memory needs no thread, whose waking costs more than the reading. Undefined where the disk has it. */
  #readNow(descriptor: number, buffer: Buffer, position: number): number | undefined {
    if (this.#isSlow) return undefined
    const end = this.#options.kernel.cachedUpTo(descriptor, position, position + buffer.length)
    if (end === position) return undefined
    return this.#watch(() => fs.readSync(descriptor, buffer, 0, end - position, position))
  }

  /** A call that should take what is in memory: where it waited for the disk after all, there is no other. */
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
    await this.#outlet.write(bytes)
    this.#took(bytes.length)
  }

  #took(count: number): void {
    if (count === 0) return
    this.sent += count
    this.#source.took(count)
    this.#options.onBytes(count)
    const { socket } = this.#response
    if (socket === null) return
    // Node has seen nothing of it, and would take the connection for idle.
    if (socket.timeout !== undefined) socket.setTimeout(socket.timeout)
    if (this.sent > WORTH_WIDENING && wide.size < MAX_WIDE && !wide.has(socket)) this.#widen(socket)
  }

  #widen(socket: Socket): void {
    const took = this.#now() - (this.#begunAt ?? 0)
    const descriptor = descriptorOf(this.#response)
    if (descriptor === undefined || this.sent < took * WIDEN_BYTES_PER_MS) return
    wide.add(socket)
    socket.once('close', () => wide.delete(socket))
    this.#options.kernel.growSendBuffer(descriptor)
  }
}

/** Undefined once it is closed: the number may be another file's then. */
function descriptorOf({ socket }: ServerResponse): number | undefined {
  if (socket === null || socket.destroyed) return undefined
  const { _handle: handle } = socket as { _handle?: { readonly fd?: number } | null }
  const { fd } = handle ?? {}
  return fd === undefined || fd < 0 ? undefined : fd
}
