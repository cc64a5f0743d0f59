/**
 * `entrepot evict`: takes away mirrored images, those pulled longest ago first, and tells which; `--dry-run` only
 * tells.
 *
 * A table on a terminal; elsewhere one line per entry, its fields separated by tabs, sizes in bytes.
 */
import type { Evicted } from '../../cache/eviction/eviction-order.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { count, sizeText } from '../../base/format.ts'

interface EvictOptions extends CommonOptions {
  readonly dryRun?: boolean
  /** A size, or a share of the file system; left out: where eviction stops by itself. */
  readonly to?: string
}

const WHY: Record<Evicted['why'], string> = {
  asked: 'pulled longest ago',
  budget: 'the mirror is above its budget',
  upstream: 'its upstream is above its budget',
  minFree: 'the disk has too little left',
  'disk full': 'the disk is full',
}

/** @returns the exit code */
export function evict(options: EvictOptions, edge: ProcessIo): Promise<number> {
  const { dryRun = false, to } = options
  return withOperations(options, edge, async (keeper, signal) => {
    let entries = 0
    let bytes = 0
    for await (const it of keeper.evict({ dryRun, to }, signal)) {
      edge.print(edge.stdoutIsTty ? row(it) : fields(it).join('\t'))
      entries += 1
      bytes += it.bytes
    }
    const total = `${count(entries, 'entry', 'entries')}, ${sizeText(bytes)}`
    if (edge.stdoutIsTty) edge.print(dryRun ? `would free: ${total}` : `freed: ${total}`)
    else edge.print(['total', entries, '', bytes, '', dryRun ? 'would be freed' : 'freed'].join('\t'))
    return 0
  })
}

function fields({ what, names, digest, bytes, pulledAt, why }: Evicted): (string | number)[] {
  return [what, names.join(','), digest, bytes, new Date(pulledAt).toISOString(), WHY[why]]
}

/** As they come, so no column can wait for the longest. */
function row({ what, names, digest, bytes, pulledAt, why }: Evicted): string {
  const name = names.length > 0 ? names.join(', ') : digest.slice(0, digest.indexOf(':') + 13)
  const pulled = new Date(pulledAt).toISOString().slice(0, 16).replace('T', ' ')
  return `${what.padEnd(8)} ${sizeText(bytes).padStart(9)}  ${name}  last pulled ${pulled}, ${WHY[why]}`
}
