/**
 * `entrepot restore FILE`: restores a backup into the folder, empty or in use.
 *
 * Exit codes: 0 everything of the file is here, or was rightly left alone; 1 something could not be restored, or
 * nothing was, because the file is incomplete.
 */
import path from 'node:path'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { ProgressBar } from './progress-bar.ts'
import { count } from '../../base/format.ts'

/** @returns the exit code */
export function restore(
  file: string,
  options: CommonOptions & { readonly overwrite?: boolean; readonly allowDenied?: boolean },
  io: ProcessIo,
): Promise<number> {
  const command: Parameters<typeof withOperations>[2] = async (operations, signal) => {
    const { overwrite = false, allowDenied = false } = options
    let failed = 0
    let unchanged = 0
    using bar = new ProgressBar(io)
    for await (const event of operations.restore(
      { from: path.resolve(file), overwrite, allowDenied },
      signal,
    )) {
      if ('progress' in event) {
        bar.showBytes(event.progress)
        continue
      }
      bar.clear()
      if ('kept' in event) {
        const { name, tag, here, saved, why } = event.kept
        if (why !== undefined) failed += 1
        io.print(`kept ${name}:${tag} at ${here}, not at ${saved}: ${why ?? '--overwrite would move it'}`)
      } else if ('left' in event) {
        failed += 1
        const { name, manifest, tags, why } = event.left
        const named = tags.length > 0 ? ` (${tags.join(', ')})` : ''
        io.printError(`not restored: ${name}@${manifest}${named}: ${why}`)
      } else {
        const { name, created, tags, manifests, blobs } = event.restored
        const isEmpty = tags + manifests + blobs === 0
        if (isEmpty && created) io.print(`${name}: its name alone`)
        else if (isEmpty) unchanged += 1
        else
          io.print(`${name}: ${count(tags, 'tag')}, ${count(manifests, 'manifest')}, ${count(blobs, 'blob')}`)
      }
    }
    if (unchanged > 0) io.print(`${count(unchanged, 'repository', 'repositories')} with nothing new`)
    return failed > 0 ? 1 : 0
  }
  return withOperations(options, io, command, { replaceLostIndex: true })
}
