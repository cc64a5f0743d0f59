/**
 * Releases the memory of network buffers that have been written, before they are many.
 *
 * A buffer that came off a socket is garbage once it is written, but V8's young generation counts only its small
 * head: the bytes pile up until V8 marks the whole heap, sixty times for each GB that comes in, which took two of
 * five CPU seconds (measured). Transferring the memory of a buffer that owns all of it frees it at once; a scavenge
 * every few MiB frees the others, for a millisecond here and as much in V8's threads. The scavenge needs
 * `--expose-gc`, which `npm start` gives; without it V8 collects in its own time.
 */
import type { Bytes } from '../../base/units.ts'

/** With 8 MiB V8 still begins to mark by itself (measured), with 2 the scavenges cost more than they save. */
const EVERY: Bytes = 4 * 1024 * 1024

/** Smaller buffers are not worth it; and undici's one empty buffer, which comes through here too, must stay. */
const WORTH_EMPTYING: Bytes = 1024

let since: Bytes = 0

/** The caller gives up the buffers and all that shares their memory: some are empty afterwards. */
export function releaseBuffers(chunks: readonly Buffer[]): void {
  for (const { buffer, length } of chunks) {
    // A slice of a larger buffer may have neighbours that are not written yet.
    const isAllOfIt = length === buffer.byteLength && buffer instanceof ArrayBuffer
    if (isAllOfIt && length >= WORTH_EMPTYING) buffer.transfer(0)
    else passedThrough(length)
  }
}

/** Counts bytes of written buffers that a scavenge frees. */
function passedThrough(bytes: Bytes): void {
  since += bytes
  if (since < EVERY) return
  since = 0
  globalThis.gc?.({ type: 'minor' })
}
