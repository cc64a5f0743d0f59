/**
 * Frees the buffers of what passes through, before they are many.
 *
 * A buffer that came off a socket is garbage once it is written, but of its bytes V8's young generation holds only
 * a small head: they pile up until V8 marks the whole heap, sixty times for each GB that comes in, which took two
 * of five CPU seconds (measured). A scavenge every few MiB costs a millisecond instead. It needs `--expose-gc`,
 * which `npm start` gives; without it V8 does as it thinks best.
 */
import type { Bytes } from './blob-store.ts'

/** With 8 MiB V8 still begins to mark by itself (measured), with 2 the scavenges cost more than they save. */
const EVERY: Bytes = 4 * 1024 * 1024

let since: Bytes = 0

/** So many bytes of buffers are written, and needed no more. */
export function passedThrough(bytes: Bytes): void {
  since += bytes
  if (since < EVERY) return
  since = 0
  globalThis.gc?.({ type: 'minor' })
}
