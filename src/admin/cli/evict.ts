/**
 * `entrepot evict`: deletes mirrored images, least recently pulled first, and lists them; `--dry-run` only lists.
 *
 * A table on a terminal; elsewhere one line per entry, its fields separated by tabs, sizes in bytes.
 */
import type { Evicted } from '../../cache/eviction/eviction-order.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { printFreed } from './freed.ts'
import { shortDigest, sizeText } from '../../base/format.ts'

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
export function evict(options: EvictOptions, io: ProcessIo): Promise<number> {
  const { dryRun = false, to } = options
  return withOperations(options, io, async (operations, signal) => {
    const total = await printFreed(operations.evict({ dryRun, to }, signal), { dryRun, row, fields }, io)
    if (!io.stdoutIsTty) io.print(['total', total.entries, '', total.bytes, '', total.verb].join('\t'))
    return 0
  })
}

function fields({ what, names, digest, bytes, pulledAt, why }: Evicted): (string | number)[] {
  return [what, names.join(','), digest, bytes, new Date(pulledAt).toISOString(), WHY[why]]
}

function row({ what, names, digest, bytes, pulledAt, why }: Evicted): string {
  const name = names.length > 0 ? names.join(', ') : shortDigest(digest)
  const pulled = new Date(pulledAt).toISOString().slice(0, 16).replace('T', ' ')
  return `${what.padEnd(8)} ${sizeText(bytes).padStart(9)}  ${name}  last pulled ${pulled}, ${WHY[why]}`
}
