/** Operations without a server: opens the program for one command, which owns the folder meanwhile. */
import path from 'node:path'
import type { Logger } from 'pino'
import type { Alone } from '../../admin/cli/process-io.ts'
import type { Config } from '../../config/schema.ts'
import { finishIndex } from '../../storage/metadata/sqlite/index-identity.ts'
import { StorageError } from '../../storage/storage-error.ts'
import { createMetrics } from '../../telemetry/metrics.ts'
import { startError } from '../start-error.ts'
import { openProgram } from './program.ts'

/**
 * @param options.replaceLostIndex allows a new index in place of a lost one; the command must then finish it
 * @throws StorageError LOCKED, StartError for any other reason why the folder cannot be used
 */
export async function openAlone(
  config: Config,
  log: Logger,
  { replaceLostIndex = false } = {},
): Promise<Alone> {
  await using opening = new AsyncDisposableStack()
  try {
    let replaced = false
    const lostIndex = (kept: string): void => {
      replaced = true
      log.warn({ kept }, 'the index was lost: another one takes its place')
    }
    const { operations, storage } = await openProgram(
      config,
      { metrics: createMetrics(), log, ...(replaceLostIndex && { lostIndex }) },
      opening,
    )
    const closing = opening.move()
    return {
      ...operations,
      finishIndex: () => {
        if (replaced) finishIndex(storage.database)
      },
      [Symbol.asyncDispose]: () => closing.disposeAsync(),
    }
  } catch (error) {
    // A command that waits until the folder is free must tell this error from the others.
    if (error instanceof StorageError && error.code === 'LOCKED') throw error
    const { host, port } = config.server
    throw startError(error, { root: path.resolve(config.storage.root), host, port })
  }
}
