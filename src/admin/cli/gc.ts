/**
 * `entrepot gc`: collects now what nobody names any more, and tells what and why.
 *
 * A table on a terminal; elsewhere one line per entry, its fields separated by tabs, sizes in bytes.
 */
import type { Collected } from '../../storage/gc/collector.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { count, sizeText } from '../../base/format.ts'

/** @returns the exit code */
export function gc(options: CommonOptions & { readonly dryRun?: boolean }, edge: ProcessIo): Promise<number> {
  const { dryRun = false } = options
  return withOperations(options, edge, async (keeper, signal) => {
    let entries = 0
    let bytes = 0
    for await (const it of keeper.gc({ dryRun }, signal)) {
      edge.print(
        edge.stdoutIsTty ? row(it) : [it.what, it.repository ?? '', it.digest, it.bytes, it.why].join('\t'),
      )
      entries += 1
      bytes += it.bytes
    }
    const total = `${count(entries, 'entry', 'entries')}, ${sizeText(bytes)}`
    if (edge.stdoutIsTty) edge.print(dryRun ? `would free: ${total}` : `freed: ${total}`)
    else edge.print(['total', '', entries, bytes, dryRun ? 'would be freed' : 'freed'].join('\t'))
    return 0
  })
}

/** As they come, so no column can wait for the longest. */
function row({ what, repository, digest, bytes, why }: Collected): string {
  const size = bytes === 0 ? '' : sizeText(bytes)
  const where = repository === undefined ? '' : `${repository}@`
  return `${what.padEnd(8)} ${size.padStart(9)}  ${where}${digest.slice(0, digest.indexOf(':') + 13)}  ${why}`
}
