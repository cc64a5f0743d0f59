/**
 * Error of a failed start, in one sentence for the operator.
 *
 * The usual causes are recognised by the errors that the parts throw; any other error is a bug and passes unchanged.
 */
import { OperatorError } from '../base/operator-error.ts'
import type { Config } from '../config/schema.ts'
import type { LocalNames } from '../registry/naming/local-names.ts'
import { shadowedNames } from '../registry/naming/shadowed-names.ts'
import { TlsError } from '../http/tls.ts'
import { StorageError } from '../storage/storage-error.ts'

export class StartError extends OperatorError {
  override readonly name = 'StartError'
}

/** @throws StartError naming the local repositories that would become unreachable */
export function refuseShadowedNames(config: Config, localNames: LocalNames): void {
  const shadowed = shadowedNames(config, localNames)
  if (shadowed.length === 0) return
  const some = shadowed.slice(0, 10).join(', ')
  throw new StartError(
    `the configured upstreams would hide local repositories: ${some}${shadowed.length > 10 ? ' …' : ''}`,
  )
}

/** @param where the folder and the address of the start, for the sentence */
export function startError(error: unknown, where: { root: string; host: string; port: number }): unknown {
  if (error instanceof StartError) return error
  if (error instanceof StorageError || error instanceof TlsError)
    return new StartError(error.message, { cause: error })
  if (!(error instanceof Error) || !('code' in error)) return error
  const address = `${where.host}:${String(where.port)}`
  const sentence = {
    EADDRINUSE: `${address} is taken by another program (server.port, or ENTREPOT_PORT)`,
    EADDRNOTAVAIL: `${where.host} is not an address of this machine (server.host)`,
    ENOTFOUND: `${where.host} is not a name of this machine (server.host)`,
    EACCES:
      'syscall' in error && error.syscall === 'listen'
        ? `listening on ${address} is not permitted (server.port)`
        : `the folder ${where.root} cannot be written (storage.root)`,
    EPERM: `the folder ${where.root} cannot be written (storage.root)`,
    EROFS: `the folder ${where.root} is on a read-only file system (storage.root)`,
    ENOENT: `the folder ${where.root} cannot be made (storage.root)`,
    ENOTDIR: `${where.root} is not a folder (storage.root)`,
    EEXIST: `${where.root} is not a folder (storage.root)`,
    ENOSPC: `the disk of ${where.root} is full (storage.root)`,
    ERR_SQLITE_ERROR: `the database in ${where.root} cannot be opened: ${error.message}`,
  }[String(error.code)]
  return sentence === undefined ? error : new StartError(sentence, { cause: error })
}
