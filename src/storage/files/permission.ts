/** Finds the file that this process may not read or write, as a sentence for the operator who can permit it. */
import { closeSync, openSync, statSync } from 'node:fs'
import { systemCode } from './files.ts'
import { StorageError } from '../storage-error.ts'

/**
 * Opens each file, which tells more than its mode.
 *
 * @param files none of which this process has open: closing one would release SQLite's locks
 * @returns undefined when permissions are not the cause
 */
export function permissionError(files: readonly string[], cause: unknown): StorageError | undefined {
  for (const file of files) {
    for (const [flags, permission, done] of [
      ['r', 'read', 'read'],
      ['r+', 'write', 'written'],
    ] as const) {
      try {
        closeSync(openSync(file, flags))
      } catch (error) {
        const code = systemCode(error)
        if (code === 'EISDIR')
          return new StorageError('NOT_PERMITTED', `${file} is a folder, not a file`, cause)
        if (code !== 'EACCES' && code !== 'EPERM') break
        const sentence =
          `${file} may not be ${done}: ${whoWeAre()} needs ${permission} permission for it (its mode is ` +
          `${modeOf(file)})`
        return new StorageError('NOT_PERMITTED', sentence, cause)
      }
    }
  }
  return undefined
}

function whoWeAre(): string {
  const user = process.geteuid?.()
  return user === undefined ? 'the user of this process' : `user ${String(user)}`
}

function modeOf(file: string): string {
  const mode = statSync(file, { throwIfNoEntry: false })?.mode ?? 0
  return (mode & 0o777).toString(8).padStart(4, '0')
}
