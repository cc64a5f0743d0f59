/**
 * The bytes of a file after a power loss.
 */
import type { Luck } from './power-loss-luck.ts'

export type DataChange =
  | { readonly type: 'write'; readonly position: number; readonly bytes: Buffer }
  | { readonly type: 'truncate'; readonly size: number }

const PAGE = 4096

/** In the order in which they were made; the unsynced ones are there as far as `luck` goes. */
export function contentOf(changes: readonly { change: DataChange; synced: boolean }[], luck: Luck): Buffer {
  const ends = changes.map(({ change }) =>
    change.type === 'write' ? change.position + change.bytes.length : change.size,
  )
  const content = Buffer.alloc(Math.max(0, ...ends))
  let size = 0
  for (const { change, synced } of changes) {
    const part = synced ? 1 : luck('data')
    if (change.type === 'truncate') {
      if (part < 0.5) continue
      content.fill(0, change.size)
      size = change.size
      continue
    }
    const { position, bytes } = change
    if (part === 1) bytes.copy(content, position)
    else if (part > 0) copyPages(content, position, bytes, () => luck('data') >= 0.5)
    if (part > 0 || luck('size') >= 0.5) size = Math.max(size, position + bytes.length)
  }
  return content.subarray(0, size)
}

function copyPages(content: Buffer, position: number, bytes: Buffer, there: () => boolean): void {
  for (let at = position; at < position + bytes.length;) {
    const end = Math.min(position + bytes.length, (Math.floor(at / PAGE) + 1) * PAGE)
    if (there()) bytes.copy(content, at, at - position, end - position)
    at = end
  }
}
