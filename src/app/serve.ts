/**
 * `entrepot serve`: from the configuration to a running server, and from a signal to a tidy end. SIGHUP makes it
 * read its configuration again.
 *
 * Exit codes: 0 stopped by a signal, 1 could not start, 2 the configuration is not valid.
 */
import { hostname } from 'node:os'
import { resolve } from 'node:path'
import { createApp } from './app.ts'
import type { Config } from '../config/schema.ts'
import { StartError } from './start-error.ts'
import { createLog, flushed } from '../telemetry/log.ts'
import { createMetrics } from '../telemetry/metrics.ts'
import { readConfiguration, type CommonOptions } from '../admin/cli/load-config.ts'
import type { ProcessIo } from '../admin/cli/process-io.ts'
import { createSighupHandler } from './sighup.ts'

/** @returns the exit code */
export async function serve(options: CommonOptions, edge: ProcessIo): Promise<number> {
  const loaded = readConfiguration(options, edge)
  if (loaded === undefined) return 2
  const { config, warnings } = loaded
  const log = createLog({ level: config.log.level, pretty: edge.stdoutIsTty })
  edge.onCrash((error) => log.fatal({ err: error }, 'crashed'))
  for (const warning of warnings) log.warn({ warning }, 'configuration')

  const stopped = edge.stopSignal()
  const app = createApp(config, { log, metrics: createMetrics({ processMetrics: true }) })
  const reread = createSighupHandler({ options, edge, app, log, config })
  // A signal that comes before it is ready waits; after the one to stop, none is minded.
  const started = Promise.withResolvers<undefined>()
  let stopping = false
  edge.onHangup(() => void started.promise.then(() => (stopping ? undefined : reread())))
  try {
    const { url } = await app.start()
    started.resolve(undefined)
    const line = readyLine(config, url)
    if (edge.stdoutIsTty) edge.print(line)
    else
      log.info(
        { url, upstreams: config.upstreams.map(({ key }) => key), root: resolve(config.storage.root) },
        line,
      )
  } catch (error) {
    if (!(error instanceof StartError)) throw error
    edge.printError(`entrepot cannot start: ${error.message}`)
    return 1
  }
  const signal = await stopped
  stopping = true
  const graceMs = config.server.shutdownGrace
  log.info({ signal, graceMs }, 'stopping')
  await app.close(graceMs)
  log.info('stopped')
  await flushed(log)
  return 0
}

/** Where it is, what it mirrors, where it keeps it, and how to point Docker at it. */
function readyLine(config: Config, url: string): string {
  const address = new URL(url)
  // What we listen on is no address to reach us by.
  if (address.hostname === '0.0.0.0' || address.hostname === '[::]') address.hostname = hostname()
  const reach = config.server.publicUrl ?? address.origin
  const names = config.upstreams.map(({ key }) => key).join(', ')
  const line =
    `entrepot is ready at ${reach}, mirrors ${names === '' ? 'nothing' : names}, ` +
    `keeps it in ${resolve(config.storage.root)}`
  const hint = hintFor(config, reach)
  return hint === undefined ? line : `${line}; ${hint}`
}

/** A daemon asks its `registry-mirrors` for names of Docker Hub, so that is offered only where they are found. */
function hintFor({ upstreams }: Config, reach: string): string | undefined {
  if (upstreams.some((it) => it.default && it.key === 'docker.io'))
    return `/etc/docker/daemon.json: { "registry-mirrors": ["${reach}"] }`
  // A port in the middle of a name is no part of a name.
  const prefix = upstreams.find(({ key }) => !key.includes(':'))?.key
  return prefix === undefined ? undefined : `docker pull ${new URL(reach).host}/${prefix}/NAME`
}
