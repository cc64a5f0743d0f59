/** Configuration of a command: the file that `--config` or the environment names. */
import { ConfigError, loadConfig, type LoadedConfig } from '../../config/schema.ts'
import type { ProcessIo } from './process-io.ts'

export interface CommonOptions {
  readonly config?: string | undefined
}

/** @returns undefined when it is invalid; the reasons were printed, and the exit code is 2 */
export function readConfiguration(options: CommonOptions, io: ProcessIo): LoadedConfig | undefined {
  try {
    return loadConfig(sourceOf(options, io))
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    io.printError(error.message)
    return undefined
  }
}

export function sourceOf(
  options: CommonOptions,
  { env }: ProcessIo,
): { file: string | undefined; env: ProcessIo['env'] } {
  return { file: options.config ?? (env['ENTREPOT_CONFIG'] || undefined), env }
}
