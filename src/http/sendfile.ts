/**
 * A finished file into a response, by the kernel alone: our threads never touch the bytes.
 *
 * Turn by turn: what the socket takes goes straight from the file; when it takes no more, a small piece goes the
 * ordinary way, and its callback tells that there is room again. So no call of ours ever waits for the client, and
 * whatever goes wrong with the connection shows in that ordinary write. Nor does one wait for the disk: what is not
 * in memory is read the ordinary way, and a file that was slow once is read so to its end.
 */
import fs from 'node:fs'
import type { ServerResponse } from 'node:http'
import type { StoredRange } from '../store/blob-store.ts'
import type { Kernel } from './kernel.ts'
import { write, type BufferPool } from './pump.ts'

/** In one call. */
const PIECE = 512 * 1024
/** Before everybody else gets a turn. */
const TURN = 4 * 1024 * 1024
const SMALL = 16 * 1024
/** The kernel doubles it: at most 2 MiB for each connection. */
const SEND_BUFFER = 1024 * 1024
/** A call from memory takes a tenth of a millisecond. */
const SLOW_MS = 20

interface SendFileOptions {
  readonly kernel: Kernel
  readonly pool: BufferPool
  readonly signal: AbortSignal
  /** Called with what the kernel has taken. */
  readonly onBytes: (count: number) => void
}

/** Whether that response goes out as it is, over a plain connection. */
export function takesFiles(response: ServerResponse): boolean {
  return descriptorOf(response) !== undefined && !('encrypted' in (response.socket ?? {}))
}

/**
 * Resolves when the kernel has taken the last byte; does not end the response.
 *
 * @throws when the client leaves or the file is shorter than its range; the response must then be broken off
 */
export async function sendFile(
  file: StoredRange,
  response: ServerResponse,
  { kernel, pool, signal, onBytes }: SendFileOptions,
): Promise<void> {
  // It counts what passes through it, and most of this will not.
  response.strictContentLength = false
  const small = Buffer.allocUnsafe(SMALL)
  let { start: position } = file
  const took = (count: number): void => {
    position += count
    onBytes(count)
  }
  const send = async (bytes: Buffer): Promise<void> => {
    if (bytes.length === 0) throw new Error(`the file is shorter than it was: ${position} bytes`)
    await write(response, bytes, signal)
    took(bytes.length)
  }
  // The head goes out with it, and until its callback the socket may still be another answer's.
  await send(small.subarray(0, await file.read(small.subarray(0, file.end - position), position)))
  let isSlow = false
  let prepared = false
  while (position < file.end) {
    const socket = descriptorOf(response)
    if (socket !== undefined && !prepared) {
      kernel.setSendBuffer(socket, SEND_BUFFER)
      prepared = true
    }
    const began = position
    let next: 'write' | 'read' = 'write'
    while (socket !== undefined && position < file.end && position - began < TURN) {
      const count = Math.min(PIECE, file.end - position)
      if (isSlow || !kernel.isResident(file.descriptor, position, count)) {
        next = 'read'
        break
      }
      const startedAt = performance.now()
      const moved = kernel.sendFile(socket, file.descriptor, position, count)
      isSlow = performance.now() - startedAt > SLOW_MS
      took(moved)
      if (moved < count) break
    }
    const left = file.end - position
    if (left === 0) return
    if (next === 'write') {
      const length = fs.readSync(file.descriptor, small, 0, Math.min(SMALL, left), position)
      await send(small.subarray(0, length))
    } else {
      await viaMemory(file, position, left, pool, send)
    }
  }
}

/** A piece that the disk still has to give. */
async function viaMemory(
  file: StoredRange,
  position: number,
  left: number,
  pool: BufferPool,
  send: (bytes: Buffer) => Promise<void>,
): Promise<void> {
  const big = pool.take()
  const buffer = big ?? Buffer.allocUnsafeSlow(Math.min(64 * 1024, left))
  let clean = false
  try {
    await send(buffer.subarray(0, await file.read(buffer.subarray(0, left), position)))
    clean = true
  } finally {
    if (big) pool.giveBack(big, clean)
  }
}

/** Undefined once it is closed: the number may be another file's then. */
function descriptorOf({ socket }: ServerResponse): number | undefined {
  if (socket === null || socket.destroyed) return undefined
  const { _handle: handle } = socket as { _handle?: { readonly fd?: number } | null }
  const { fd } = handle ?? {}
  return fd === undefined || fd < 0 ? undefined : fd
}
