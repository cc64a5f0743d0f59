/**
 * `entrepot refresh REF`: revalidates one image upstream now, and fetches the missing parts of what was here of it.
 *
 * Exit codes: 0 it is up to date, 1 something could not be fetched.
 */
import type { RefreshEvent } from '../images/refresh-image.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { count, sizeText } from '../../base/format.ts'

interface RefreshOptions extends CommonOptions {
  readonly ns?: string
}

/** @returns the exit code */
export function refresh(refs: readonly string[], options: RefreshOptions, io: ProcessIo): Promise<number> {
  const { ns: namespace } = options
  return withOperations(options, io, async (operations, signal) => {
    let failures = 0
    for (const ref of refs) {
      for await (const event of operations.refresh({ ref, namespace }, signal)) {
        if (event.is === 'failed') {
          failures += 1
          io.printError(`entrepot: ${event.digest}: ${event.why}`)
        }
        const sentence = told(event)
        if (sentence !== undefined) io.print(sentence)
      }
    }
    return failures > 0 ? 1 : 0
  })
}

function told(event: RefreshEvent): string | undefined {
  switch (event.is) {
    case 'tag': {
      const { name, change, from = '', to = '' } = event
      return {
        unchanged: `${name}: unchanged, confirmed: ${to}`,
        moved: `${name}: moved from ${from} to ${to}`,
        new: `${name}: fetched anew: ${to}`,
        gone: `${name}: gone upstream; what it named is kept: ${from}`,
      }[change]
    }
    case 'fetched':
      return undefined
    case 'failed':
      return undefined
    case 'done': {
      const { fetched, bytes, failed } = event
      const got =
        fetched === 0 ? 'nothing had to be fetched' : `fetched ${count(fetched, 'file')}, ${sizeText(bytes)}`
      return `  ${got}${failed > 0 ? `; ${count(failed, 'file')} could not be had` : ''}`
    }
  }
}
