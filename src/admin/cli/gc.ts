/**
 * `entrepot gc`: runs the garbage collector now, and lists what it deleted and why.
 *
 * A table on a terminal; elsewhere one line per entry, its fields separated by tabs, sizes in bytes.
 */
import type { Collected } from '../../storage/gc/collector.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { printFreed } from './freed.ts'
import { shortDigest, sizeText } from '../../base/format.ts'

/** @returns the exit code */
export function gc(options: CommonOptions & { readonly dryRun?: boolean }, io: ProcessIo): Promise<number> {
  const { dryRun = false } = options
  return withOperations(options, io, async (operations, signal) => {
    const total = await printFreed(operations.gc({ dryRun }, signal), { dryRun, row, fields }, io)
    if (!io.stdoutIsTty) io.print(['total', '', total.entries, total.bytes, total.verb].join('\t'))
    return 0
  })
}

function fields({ what, repository = '', digest, bytes, why }: Collected): (string | number)[] {
  return [what, repository, digest, bytes, why]
}

function row({ what, repository, digest, bytes, why }: Collected): string {
  const size = bytes === 0 ? '' : sizeText(bytes)
  const where = repository === undefined ? '' : `${repository}@`
  return `${what.padEnd(8)} ${size.padStart(9)}  ${where}${shortDigest(digest)}  ${why}`
}
