/**
 * Path of the control socket: `<storage.root>/control.sock`, however long that is.
 *
 * The kernel takes 107 bytes of a socket's path. A longer one is reached through an open folder, by its /proc name.
 */
import { closeSync, existsSync, openSync } from 'node:fs'
import path from 'node:path'

export const SOCKET = 'control.sock'

/** The shortest limit of the supported systems, less the longest name below the root. */
const MAX_ROOT_BYTES = 103 - '/control.new/control.sock'.length

/** A folder under a path that is short enough for sockets in it. Dispose once they are bound or connected. */
interface ShortFolder extends Disposable {
  readonly path: string
}

/** @throws Error in a sentence for the operator, where the system has no /proc */
export function shortFolder(root: string): ShortFolder {
  const folder = path.resolve(root)
  if (Buffer.byteLength(folder) <= MAX_ROOT_BYTES) return { path: folder, [Symbol.dispose]: () => undefined }
  if (!existsSync('/proc/self/fd')) {
    throw new Error(
      `the path of ${folder} is too long for a Unix socket in it: ${MAX_ROOT_BYTES} bytes at most (storage.root)`,
    )
  }
  const fd = openSync(folder, 'r')
  let open = true
  return {
    path: `/proc/self/fd/${fd}`,
    [Symbol.dispose]: () => {
      if (open) closeSync(fd)
      open = false
    },
  }
}
