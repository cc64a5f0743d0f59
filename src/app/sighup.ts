/**
 * SIGHUP: the configuration is read again, from where it was read at the start. A bad one changes nothing.
 */
import type { Logger } from 'pino'
import type { App } from './app.ts'
import { ConfigError, loadConfig, type Config, type LoadedConfig } from '../config/schema.ts'
import { StartError } from './start-error.ts'
import { sourceOf, type CommonOptions } from '../admin/cli/load-config.ts'
import type { ProcessIo } from '../admin/cli/process-io.ts'

interface RereadingParts {
  readonly options: CommonOptions
  readonly edge: ProcessIo
  readonly app: Pick<App, 'reload'>
  readonly log: Logger
  /** As it was started. */
  readonly config: Config
}

/** What is to be called for each signal. One after the other: the last one finds the latest file. */
export function createSighupHandler(parts: RereadingParts): () => Promise<void> {
  let last = Promise.resolve()
  return () => (last = last.then(() => reread(parts)))
}

async function reread({ options, edge, app, log, config }: RereadingParts): Promise<void> {
  try {
    const { config: read, warnings } = loadAgain(options, edge, config)
    const { applied, needRestart } = await app.reload(read)
    for (const warning of warnings) log.warn({ warning }, 'configuration')
    log.info({ applied }, 'the configuration was read again')
    if (needRestart.length > 0) log.warn({ keys: needRestart }, 'this takes effect with the next start only')
  } catch (error) {
    const why =
      error instanceof ConfigError
        ? { problems: error.problems }
        : error instanceof StartError
          ? { reason: error.message }
          : { err: error }
    log.error(why, 'the configuration was read again, and the old one stays')
  }
}

/** @throws ConfigError */
function loadAgain(options: CommonOptions, edge: ProcessIo, { server }: Config): LoadedConfig {
  const source = sourceOf(options, edge)
  const loaded = loadConfig(source)
  // Whoever is reached from everywhere until the next start must not get what a loopback listener may have.
  if (loaded.config.server.host !== server.host) {
    loadConfig({ ...source, env: { ...source.env, ENTREPOT_HOST: server.host } })
  }
  return loaded
}
