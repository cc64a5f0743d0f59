/**
 * Output of the commands that free space: each entry as it goes, then the total.
 *
 * A table on a terminal; elsewhere one line per entry, its fields separated by tabs, sizes in bytes. Rows are printed
 * as they come, so no column can wait for the longest.
 */
import { count, sizeText } from '../../base/format.ts'
import type { ProcessIo } from './process-io.ts'

interface FreedOutput<Entry> {
  readonly dryRun: boolean
  readonly row: (entry: Entry) => string
  readonly fields: (entry: Entry) => readonly (string | number)[]
}

/** @returns the last line for a program; a terminal has it already */
export async function printFreed<Entry extends { readonly bytes: number }>(
  freed: AsyncIterable<Entry>,
  { dryRun, row, fields }: FreedOutput<Entry>,
  io: ProcessIo,
): Promise<{ entries: number; bytes: number; verb: string }> {
  const total = { entries: 0, bytes: 0, verb: dryRun ? 'would be freed' : 'freed' }
  for await (const entry of freed) {
    io.print(io.stdoutIsTty ? row(entry) : fields(entry).join('\t'))
    total.entries += 1
    total.bytes += entry.bytes
  }
  const words = `${count(total.entries, 'entry', 'entries')}, ${sizeText(total.bytes)}`
  if (io.stdoutIsTty) io.print(`${dryRun ? 'would free' : 'freed'}: ${words}`)
  return total
}
