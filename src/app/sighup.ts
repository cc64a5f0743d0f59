/** Handler of SIGHUP: reads the configuration again, from where the start read it. An invalid one changes nothing. */
import type { Logger } from 'pino'
import type { App } from './app.ts'
import { ConfigError, loadConfig, type Config, type LoadedConfig } from '../config/schema.ts'
import { StartError } from './start-error.ts'
import { sourceOf, type CommonOptions } from '../admin/cli/load-config.ts'
import type { ProcessIo } from '../admin/cli/process-io.ts'

interface SighupParts {
  readonly options: CommonOptions
  readonly io: ProcessIo
  readonly app: Pick<App, 'reload'>
  readonly log: Logger
  /** The configuration of the server's start. */
  readonly config: Config
}

/** @returns the handler of each signal; calls run one after the other, so that the last one reads the latest file */
export function createSighupHandler(parts: SighupParts): () => Promise<void> {
  let last = Promise.resolve()
  return () => (last = last.then(() => reread(parts)))
}

async function reread({ options, io, app, log, config }: SighupParts): Promise<void> {
  try {
    const { config: read, warnings } = loadAgain(options, io, config)
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
function loadAgain(options: CommonOptions, io: ProcessIo, { server }: Config): LoadedConfig {
  const source = sourceOf(options, io)
  const loaded = loadConfig(source)
  // The old host stays until a restart: a host reachable from elsewhere must pass checks that loopback does not need.
  if (loaded.config.server.host !== server.host) {
    loadConfig({ ...source, env: { ...source.env, ENTREPOT_HOST: server.host } })
  }
  return loaded
}
