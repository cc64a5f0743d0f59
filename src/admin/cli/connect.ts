/**
 * How a command gets at the folder: through the running server, or alone, with the folder's lock, where none runs.
 *
 * ```ts
 * return withKeeper(options, edge, async (keeper, signal) => {
 *   for await (const event of keeper.gc({ dryRun: true }, signal)) edge.print(event.digest)
 *   return 0
 * })
 * ```
 *
 * Ctrl-C aborts the signal; the loop then throws, wherever the operation runs. Exit codes: what the command returns,
 * 1 for what was refused or failed, 2 for a configuration that is not valid, 130 for Ctrl-C.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '../../config/schema.ts'
import { reachServer } from '../control/client.ts'
import type { Operations } from '../operations.ts'
import { OciError } from '../../oci/errors.ts'
import { OperatorError } from '../../base/operator-error.ts'
import { StorageError } from '../../storage/storage-error.ts'
import { createLog } from '../../telemetry/log.ts'
import { readConfiguration, type CommonOptions } from './load-config.ts'
import type { AloneOptions, ProcessIo } from './process-io.ts'

/** A server that starts or stops, and a command that runs alone, have the folder without listening. */
const PATIENCE_MS = 10_000
const AGAIN_MS = 100

const INTERRUPTED = 130

/** @returns the exit code */
export async function withOperations(
  options: CommonOptions,
  edge: ProcessIo,
  command: (keeper: Operations, signal: AbortSignal) => Promise<number>,
  alone: AloneOptions = {},
): Promise<number> {
  const loaded = readConfiguration(options, edge)
  if (loaded === undefined) return 2
  const stopping = new AbortController()
  const { signal } = stopping
  void edge.stopSignal().then((name) => stopping.abort(new Error(name)))
  try {
    await using keeper = await openKeeper(loaded.config, edge, signal, alone)
    const code = await command(keeper.operations, signal)
    keeper.finishIndex()
    return code
  } catch (error) {
    if (signal.aborted) return INTERRUPTED
    if (!isForThePerson(error)) throw error
    edge.printError(`entrepot: ${error.message}`)
    return 1
  }
}

interface Keeper extends AsyncDisposable {
  readonly operations: Operations
  /** The command has come to its end. */
  finishIndex(): void
}

async function openKeeper(
  config: Config,
  edge: ProcessIo,
  signal: AbortSignal,
  options: AloneOptions,
): Promise<Keeper> {
  const log = createLog({ level: 'warn', write: (line) => edge.printError(line.trimEnd()) })
  const until = performance.now() + PATIENCE_MS
  for (;;) {
    const operations = await reachServer(config.storage.root, signal)
    if (operations !== undefined)
      return { operations, finishIndex: () => undefined, [Symbol.asyncDispose]: () => Promise.resolve() }
    try {
      const alone = await edge.openAlone(config, log, options)
      return {
        operations: alone,
        finishIndex: () => alone.finishIndex(),
        [Symbol.asyncDispose]: () => alone[Symbol.asyncDispose](),
      }
    } catch (error) {
      const taken = error instanceof StorageError && error.code === 'LOCKED'
      if (!taken || performance.now() > until) throw error
    }
    await sleep(AGAIN_MS, undefined, { signal })
  }
}

function isForThePerson(error: unknown): error is Error {
  return [OperatorError, OciError, StorageError].some((kind) => error instanceof kind)
}
