/**
 * `entrepot rm REF`: deletes a tag, an image or a repository, pushed or mirrored; `entrepot rm --release NAME`
 * releases the name of a pushed repository that is empty.
 */
import { OperatorError } from '../../base/operator-error.ts'
import type { Removed } from '../images/delete-local.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { sizeText } from '../../base/format.ts'

interface RmOptions extends CommonOptions {
  readonly all?: boolean
  readonly release?: boolean
}

/** @returns the exit code */
export function rm(refs: readonly string[], options: RmOptions, io: ProcessIo): Promise<number> {
  const { all = false, release = false } = options
  return withOperations(options, io, async (operations, signal) => {
    // Parses all of them first: doing half of a mistyped line is worse than doing nothing.
    const wanted = refs.map((ref) => parse(ref, all || release))
    for (const { name, reference } of wanted) {
      const removing = release
        ? operations.release({ name }, signal)
        : operations.rm({ name, reference }, signal)
      for await (const it of removing) io.print(sentence(it))
    }
    return 0
  })
}

/** @throws OperatorError for a reference that is too ambiguous to delete by */
function parse(ref: string, whole: boolean): { name: string; reference?: string } {
  const at = ref.indexOf('@')
  const colon = at < 0 ? ref.indexOf(':', ref.lastIndexOf('/') + 1) : -1
  const end = at < 0 ? colon : at
  if (end < 0) {
    if (whole) return { name: ref }
    throw new OperatorError(
      `${ref} names no tag and no digest: say ${ref}:TAG or ${ref}@DIGEST, or --all for the whole repository`,
    )
  }
  if (whole) throw new OperatorError(`${ref} names more than a repository: say ${ref.slice(0, end)}`)
  const name = ref.slice(0, end)
  if (at >= 0 && name.includes(':', name.lastIndexOf('/') + 1)) {
    throw new OperatorError(`${ref} names a tag and a digest: say one of them`)
  }
  return { name, reference: ref.slice(end + 1) }
}

function sentence({ what, name, reference, bytes = 0, note }: Removed): string {
  const done = {
    tag: `removed ${name}:${reference ?? ''}`,
    image: `removed ${name}@${reference ?? ''} and its tags`,
    repository: `removed all of ${name}`,
    name: `released ${name}`,
  }[what]
  const freed = bytes === 0 ? [] : [`freed ${sizeText(bytes)}`]
  return [done, ...freed, ...(note === undefined ? [] : [note])].join('; ')
}
