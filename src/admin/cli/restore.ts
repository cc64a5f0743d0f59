/**
 * `entrepot restore FILE`: what a backup holds, back into the folder, empty or in use.
 *
 * Exit codes: 0 all that the file holds is here, or was left alone as it should be, 1 something could not be
 * restored, or nothing was, because the file is not whole.
 */
import path from 'node:path'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { ProgressBar } from './progress-bar.ts'
import { count, sizeText } from '../../base/format.ts'

/** @returns the exit code */
export function restore(
  file: string,
  options: CommonOptions & { readonly overwrite?: boolean; readonly allowDenied?: boolean },
  edge: ProcessIo,
): Promise<number> {
  const command: Parameters<typeof withOperations>[2] = async (keeper, signal) => {
    const { overwrite = false, allowDenied = false } = options
    let failed = 0
    let unchanged = 0
    using bar = new ProgressBar(edge)
    for await (const event of keeper.restore({ from: path.resolve(file), overwrite, allowDenied }, signal)) {
      if ('progress' in event) {
        const { bytes, totalBytes } = event.progress
        bar.show(bytes / totalBytes, `${sizeText(bytes)} of ${sizeText(totalBytes)}`)
        continue
      }
      bar.clear()
      if ('kept' in event) {
        const { name, tag, here, saved, why } = event.kept
        if (why !== undefined) failed += 1
        edge.print(`kept ${name}:${tag} at ${here}, not at ${saved}: ${why ?? '--overwrite would move it'}`)
      } else if ('left' in event) {
        failed += 1
        const { name, manifest, tags, why } = event.left
        const named = tags.length > 0 ? ` (${tags.join(', ')})` : ''
        edge.printError(`not restored: ${name}@${manifest}${named}: ${why}`)
      } else {
        const { name, created, tags, manifests, blobs } = event.restored
        const isEmpty = tags + manifests + blobs === 0
        if (isEmpty && created) edge.print(`${name}: its name alone`)
        else if (isEmpty) unchanged += 1
        else
          edge.print(
            `${name}: ${count(tags, 'tag')}, ${count(manifests, 'manifest')}, ${count(blobs, 'blob')}`,
          )
      }
    }
    if (unchanged > 0) edge.print(`${count(unchanged, 'repository', 'repositories')} with nothing new`)
    return failed > 0 ? 1 : 0
  }
  return withOperations(options, edge, command, { replaceLostIndex: true })
}
