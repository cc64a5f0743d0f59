/**
 * Releases the memory of network buffers that have been written, before they are many.
 *
 * A buffer that came off a socket is garbage once it is written, but of its bytes V8's young generation holds only
 * a small head: they pile up until V8 marks the whole heap, sixty times for each GB that comes in, which took two
 * of five CPU seconds (measured). Taking the memory from a buffer that is all of its own frees it at once; of the
 * others a scavenge every few MiB gets rid, for a millisecond here and as much in V8's threads. That needs
 * `--expose-gc`, which `npm start` gives; without it V8 does as it thinks best.
 */
import type { Bytes } from '../../base/units.ts'

/** With 8 MiB V8 still begins to mark by itself (measured), with 2 the scavenges cost more than they save. */
const EVERY: Bytes = 4 * 1024 * 1024

/** Smaller ones are not worth it; and undici's empty buffer, which comes through here too, is its only one. */
const WORTH_EMPTYING: Bytes = 1024

let since: Bytes = 0

/** Nobody needs them any more, nor anything that shares their memory: they are empty from now on, some of them. */
export function releaseBuffers(chunks: readonly Buffer[]): void {
  for (const { buffer, length } of chunks) {
    // What is a part of something larger may have neighbours that are still on their way.
    const isAllOfIt = length === buffer.byteLength && buffer instanceof ArrayBuffer
    if (isAllOfIt && length >= WORTH_EMPTYING) buffer.transfer(0)
    else passedThrough(length)
  }
}

/** So many bytes of buffers are written, and needed no more. */
function passedThrough(bytes: Bytes): void {
  since += bytes
  if (since < EVERY) return
  since = 0
  globalThis.gc?.({ type: 'minor' })
}
