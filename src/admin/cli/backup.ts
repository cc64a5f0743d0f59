/**
 * `entrepot backup -o FILE`: everything that was pushed, as of now, in one file, also while the server runs.
 *
 * Exit codes: 0 all of it was saved, 1 some of it was lost before and is not in the file.
 */
import path from 'node:path'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { ProgressBar } from './progress-bar.ts'
import { count, sizeText } from '../../base/format.ts'

/** The option's word for standard output. */
const STDOUT = '-'

const MOST_USES = 10

/** @returns the exit code */
export function backup(options: CommonOptions & { readonly output: string }, io: ProcessIo): Promise<number> {
  return withOperations(options, io, async (operations, signal) => {
    const to = options.output === STDOUT ? undefined : path.resolve(options.output)
    // Standard output carries the archive, so messages go to standard error.
    const say = (line: string): void => (to === undefined ? io.printError(line) : io.print(line))
    let lost = 0
    using bar = new ProgressBar(io)
    for await (const event of operations.backup(to === undefined ? {} : { to }, signal)) {
      if ('piece' in event) await io.write(Buffer.from(event.piece, 'base64'))
      else if ('progress' in event) bar.showBytes(event.progress)
      else if ('lost' in event) {
        lost += 1
        const { digest, why, uses } = event.lost
        const some = uses.slice(0, MOST_USES).join(', ')
        bar.clear()
        io.printError(`not saved: ${digest}: ${why}${some === '' ? '' : `; hits ${some}`}`)
      } else {
        const { repositories, tags, manifests, blobs, bytes } = event.saved
        bar.clear()
        say(
          `saved ${count(repositories, 'repository', 'repositories')}, ${count(tags, 'tag')}, ` +
            `${count(manifests, 'manifest')}: ${count(blobs, 'file')}, ${sizeText(bytes)}`,
        )
      }
    }
    return lost > 0 ? 1 : 0
  })
}
