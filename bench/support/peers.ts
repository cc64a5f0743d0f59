/**
 * Registries and servers that entrepot is measured against, each a process of its own in a folder of its own.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { writeNginxConfig } from '../../test/support/nginx.ts'
import { findCommand, freePort } from '../../test/support/programs.ts'
import { goProgram } from './go-programs.ts'
import { cpuSeconds, residentBytes } from './measured.ts'
import { Server } from './server.ts'
import { without } from './sizes.ts'

export interface Peer extends AsyncDisposable {
  readonly name: string
  readonly url: string
  readonly folder: string
  readonly pid: number | undefined
  /** User and system time so far. */
  cpuSeconds(): number
  /** Resident at the most, so far. */
  peakBytes(): number
}

/** @param upstream in front of which it is a mirror; undefined: it holds what is pushed to it */
type StartPeer = (upstream?: string) => Promise<Peer>

/** Peers that are registries, as entrepot is. */
export const REGISTRIES = ['docker-registry', 'distribution', 'zot']

/** Of each that is here, in that order. */
export async function startRegistries(names: readonly string[], upstream?: string): Promise<Peer[]> {
  const starters: Record<string, StartPeer | undefined> = {
    entrepot: (from) => startEntrepot('entrepot', from),
    'entrepot-pump': (from) => startEntrepot('entrepot-pump', from, { server: { sendfile: false } }),
    // Each layer over one connection.
    'entrepot-whole': (from = 'http://127.0.0.1:9') =>
      startEntrepot('entrepot-whole', from, {
        upstreams: { 'docker.io': { url: from, default: true, segments: { parallel: 1 } } },
      }),
    'entrepot-accel': startEntrepotBehindNginx,
    'docker-registry': startDockerRegistry,
    distribution: startDistribution,
    zot: startZot,
    nginx: (from) => (from === undefined ? startNginxFiles() : startNginxCache(from)),
  }
  const peers: Peer[] = []
  for (const name of names) {
    if (without.includes(name)) continue
    try {
      const peer = await starters[name]?.(upstream)
      if (peer !== undefined) peers.push(peer)
    } catch (error) {
      if (name.startsWith('entrepot') && name !== 'entrepot-accel') throw error
      console.log(`without ${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  return peers
}

async function startEntrepot(
  name: string,
  upstream = 'http://127.0.0.1:9',
  { server: settings = {}, ...more }: { server?: Record<string, unknown> } & Record<string, unknown> = {},
): Promise<Peer & { readonly root: string }> {
  const server = await Server.start(upstream, {
    cache: { tagTtl: '1h', minFree: '1MiB' },
    config: { server: { port: 0, ...settings }, ...more },
  })
  const { url, folder, pid, root } = server
  return {
    ...{ name, url, folder, pid, root },
    ...figuresOf(pid),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** By the file that we ship, without TLS. What it costs is what both of them cost. */
async function startEntrepotBehindNginx(upstream?: string): Promise<Peer> {
  const command = findCommand('nginx')
  if (command === undefined) throw new Error('nginx is not installed')
  const name = 'entrepot-accel'
  await using started = new AsyncDisposableStack()
  const entrepot = started.use(
    await startEntrepot(name, upstream, {
      server: { accelRedirect: '/internal-blobs/' },
      // Behind nginx nobody is on this machine.
      local: ['bench/**'],
      push: { anonymous: true },
    }),
  )
  const { root, pid } = entrepot
  const [folder, port] = [newFolder(), await freePort()]
  const upstreamPort = Number(new URL(entrepot.url).port)
  const args = writeNginxConfig({ folder, port, upstreamPort, root, tls: undefined })
  const child = spawn(command, args, { stdio: 'ignore' })
  const nginx = started.use(await listening(name, child, `http://127.0.0.1:${String(port)}`, folder, '/v2/'))
  const both = started.move()
  return {
    ...{ name, url: nginx.url, folder: entrepot.folder, pid },
    cpuSeconds: () => entrepot.cpuSeconds() + nginx.cpuSeconds(),
    peakBytes: () => entrepot.peakBytes() + nginx.peakBytes(),
    [Symbol.asyncDispose]: () => both.disposeAsync(),
  }
}

function startDockerRegistry(upstream?: string): Promise<Peer> {
  const command = findCommand('docker-registry')
  if (command === undefined) throw new Error("docker-registry (Debian's package) is not installed")
  return startGoRegistry('docker-registry', command, upstream)
}

async function startDistribution(upstream?: string): Promise<Peer> {
  return startGoRegistry('distribution', await goProgram('distribution'), upstream)
}

async function startZot(upstream?: string): Promise<Peer> {
  if (upstream !== undefined) throw new Error('what `go install` builds of it is no mirror')
  const command = await goProgram('zot')
  const folder = newFolder()
  const port = String(await freePort())
  const file = path.join(folder, 'config.json')
  writeFileSync(
    file,
    JSON.stringify({
      distSpecVersion: '1.1.1',
      storage: { rootDirectory: path.join(folder, 'data') },
      http: { address: '127.0.0.1', port },
      log: { level: 'error' },
    }),
  )
  const child = spawn(command, ['serve', file], { stdio: 'ignore' })
  return await listening('zot', child, `http://127.0.0.1:${port}`, folder, '/v2/')
}

async function startGoRegistry(name: string, command: string, upstream?: string): Promise<Peer> {
  const folder = newFolder()
  const address = `127.0.0.1:${String(await freePort())}`
  const file = path.join(folder, 'config.yml')
  writeFileSync(
    file,
    JSON.stringify({
      version: 0.1,
      log: { level: 'error', accesslog: { disabled: true } },
      storage: {
        cache: { blobdescriptor: 'inmemory' },
        filesystem: { rootdirectory: path.join(folder, 'data') },
        delete: { enabled: true },
      },
      http: { addr: address },
      ...(upstream === undefined ? {} : { proxy: { remoteurl: upstream } }),
    }),
  )
  const child = spawn(command, ['serve', file], {
    env: { ...process.env, OTEL_TRACES_EXPORTER: 'none' },
    stdio: 'ignore',
  })
  return await listening(name, child, `http://${address}`, folder, '/v2/')
}

/** Files below `<folder>/files` at their paths. */
async function startNginxFiles(): Promise<Peer> {
  return await startNginx((folder) => `root ${folder}/files; default_type application/octet-stream;`)
}

/** What is asked for is fetched once and kept. */
async function startNginxCache(upstream: string): Promise<Peer> {
  return await startNginx(
    () => `proxy_pass ${upstream}; proxy_cache all; proxy_cache_valid 200 1h; proxy_cache_lock on;
      proxy_cache_lock_timeout 600s; proxy_cache_lock_age 600s; proxy_http_version 1.1; proxy_max_temp_file_size 0;`,
  )
}

async function startNginx(location: (folder: string) => string): Promise<Peer> {
  const command = findCommand('nginx')
  if (command === undefined) throw new Error('nginx is not installed')
  const folder = newFolder()
  for (const name of ['files', 'temporary', 'cache']) mkdirSync(path.join(folder, name))
  const port = await freePort()
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${folder}/temporary/${kind};`)
    .join(' ')
  const file = path.join(folder, 'nginx.conf')
  writeFileSync(
    file,
    // One process: the one that is measured.
    `daemon off; master_process off; user root; pid ${folder}/pid; error_log ${folder}/error.log;
    events { worker_connections 1024; }
    http {
      access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; ${temporary}
      proxy_cache_path ${folder}/cache keys_zone=all:16m max_size=20g use_temp_path=off;
      server {
        listen 127.0.0.1:${String(port)};
        location = /ready { return 200; }
        location / { ${location(folder)} }
      }
    }`,
  )
  const child = spawn(command, ['-c', file, '-p', folder], { stdio: 'ignore' })
  return await listening('nginx', child, `http://127.0.0.1:${String(port)}`, folder, '/ready')
}

function newFolder(): string {
  return mkdtempSync(path.join(tmpdir(), 'entrepot-bench-'))
}

function figuresOf(pid: number | undefined): Pick<Peer, 'cpuSeconds' | 'peakBytes'> {
  return { cpuSeconds: () => cpuSeconds(pid), peakBytes: () => residentBytes(pid, 'peak') }
}

/** @throws when it does not come up */
async function listening(
  name: string,
  child: ChildProcess,
  url: string,
  folder: string,
  probe: string,
): Promise<Peer> {
  const { pid } = child
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await ended
    }
    rmSync(folder, { recursive: true, force: true })
  }
  for (let tries = 0; (await fetch(url + probe).catch(() => undefined))?.ok !== true; tries++) {
    if (tries > 200 || child.exitCode !== null) {
      await stop()
      throw new Error(`${name} does not start`)
    }
    await sleep(50)
  }
  return { name, url, folder, pid, ...figuresOf(pid), [Symbol.asyncDispose]: stop }
}
