/**
 * Command `entrepot serve`: from the configuration to a running server, and from a signal to its graceful shutdown;
 * SIGHUP reloads.
 *
 * Exit codes: 0 stopped by a signal, 1 could not start, 2 the configuration is invalid.
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
export async function serve(options: CommonOptions, io: ProcessIo): Promise<number> {
  const loaded = readConfiguration(options, io)
  if (loaded === undefined) return 2
  const { config, warnings } = loaded
  const log = createLog({ level: config.log.level, pretty: io.stdoutIsTty })
  io.onCrash((error) => log.fatal({ err: error }, 'crashed'))
  for (const warning of warnings) log.warn({ warning }, 'configuration')

  const stopped = io.stopSignal()
  const app = createApp(config, { log, metrics: createMetrics({ processMetrics: true }) })
  const reread = createSighupHandler({ options, io, app, log, config })
  // A SIGHUP that comes before the server is ready waits; after the signal to stop it is ignored.
  const started = Promise.withResolvers<undefined>()
  let stopping = false
  io.onHangup(() => void started.promise.then(() => (stopping ? undefined : reread())))
  try {
    const { url } = await app.start()
    started.resolve(undefined)
    const line = readyLine(config, url)
    if (io.stdoutIsTty) io.print(line)
    else
      log.info(
        { url, upstreams: config.upstreams.map(({ key }) => key), root: resolve(config.storage.root) },
        line,
      )
  } catch (error) {
    if (!(error instanceof StartError)) throw error
    io.printError(`entrepot cannot start: ${error.message}`)
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

/** Tells the operator the server's address, its upstreams, its folder, and how to point Docker at it. */
function readyLine(config: Config, url: string): string {
  const address = new URL(url)
  // Clients cannot connect to the address that stands for all interfaces.
  if (address.hostname === '0.0.0.0' || address.hostname === '[::]') address.hostname = hostname()
  const publicUrl = config.server.publicUrl ?? address.origin
  const names = config.upstreams.map(({ key }) => key).join(', ')
  const line =
    `entrepot is ready at ${publicUrl}, mirrors ${names === '' ? 'nothing' : names}, ` +
    `keeps it in ${resolve(config.storage.root)}`
  const hint = hintFor(config, publicUrl)
  return hint === undefined ? line : `${line}; ${hint}`
}

/** A daemon asks its `registry-mirrors` for Docker Hub's names only, so the hint needs an upstream that has them. */
function hintFor({ upstreams }: Config, publicUrl: string): string | undefined {
  if (upstreams.some((it) => it.default && it.key === 'docker.io'))
    return `/etc/docker/daemon.json: { "registry-mirrors": ["${publicUrl}"] }`
  // A name cannot have a port in the middle.
  const prefix = upstreams.find(({ key }) => !key.includes(':'))?.key
  return prefix === undefined ? undefined : `docker pull ${new URL(publicUrl).host}/${prefix}/NAME`
}
