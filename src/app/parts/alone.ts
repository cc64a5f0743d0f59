/**
 * The operations without a server: the program opened for one command, which has the folder to itself meanwhile.
 */
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
 * @param options.replaceLostIndex another index may take the place of one that was lost; it has to be finished then
 * @throws StorageError LOCKED, StartError for whatever else keeps the folder from being used
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
    // A command that waits until the folder is free has to tell this error from the others.
    if (error instanceof StorageError && error.code === 'LOCKED') throw error
    const { host, port } = config.server
    throw startError(error, { root: path.resolve(config.storage.root), host, port })
  }
}
