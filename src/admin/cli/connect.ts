/**
 * Connects a command to the folder: through the running server, or alone, with the folder's lock, where none runs.
 *
 * ```ts
 * return withOperations(options, io, async (operations, signal) => {
 *   for await (const event of operations.gc({ dryRun: true }, signal)) io.print(event.digest)
 *   return 0
 * })
 * ```
 *
 * Ctrl-C aborts the signal; the loop then throws, wherever the operation runs. Exit codes: what the command returns,
 * 1 for what was refused or failed, 2 for a configuration that is not valid, 130 for Ctrl-C.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '../../config/schema.ts'
import { connectToServer } from '../control/client.ts'
import type { Operations } from '../operations.ts'
import { OciError } from '../../oci/errors.ts'
import { OperatorError } from '../../base/operator-error.ts'
import { StorageError } from '../../storage/storage-error.ts'
import { createLog } from '../../telemetry/log.ts'
import { readConfiguration, type CommonOptions } from './load-config.ts'
import type { Alone, AloneOptions, ProcessIo } from './process-io.ts'

/** A server that starts or stops, and a command that runs alone, own the folder for moments without listening. */
const RETRY_FOR_MS = 10_000
const RETRY_EVERY_MS = 100

const INTERRUPTED = 130

/** @returns the exit code */
export async function withOperations(
  options: CommonOptions,
  io: ProcessIo,
  command: (operations: Operations, signal: AbortSignal) => Promise<number>,
  alone: AloneOptions = {},
): Promise<number> {
  const loaded = readConfiguration(options, io)
  if (loaded === undefined) return 2
  const stopping = new AbortController()
  const { signal } = stopping
  void io.stopSignal().then((name) => stopping.abort(new Error(name)))
  try {
    await using operations = await connect(loaded.config, io, signal, alone)
    const code = await command(operations, signal)
    operations.finishIndex()
    return code
  } catch (error) {
    if (signal.aborted) return INTERRUPTED
    if (!isForThePerson(error)) throw error
    io.printError(`entrepot: ${error.message}`)
    return 1
  }
}

/** Operations of the process that owns the folder; a server's need no finishing or closing by the command. */
async function connect(
  config: Config,
  io: ProcessIo,
  signal: AbortSignal,
  options: AloneOptions,
): Promise<Alone> {
  const log = createLog({ level: 'warn', write: (line) => io.printError(line.trimEnd()) })
  const until = performance.now() + RETRY_FOR_MS
  for (;;) {
    const operations = await connectToServer(config.storage.root, signal)
    if (operations !== undefined)
      return {
        ...operations,
        finishIndex: () => undefined,
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }
    try {
      return await io.openAlone(config, log, options)
    } catch (error) {
      const taken = error instanceof StorageError && error.code === 'LOCKED'
      if (!taken || performance.now() > until) throw error
    }
    await sleep(RETRY_EVERY_MS, undefined, { signal })
  }
}

function isForThePerson(error: unknown): error is Error {
  return [OperatorError, OciError, StorageError].some((kind) => error instanceof kind)
}
