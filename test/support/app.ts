/**
 * The whole program on port 0 with a real folder, in front of simulated upstreams.
 */
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { request } from 'undici'
import { createApp, type App, type AppOverrides } from '../../src/app/app.ts'
import { loadConfig } from '../../src/config/schema.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { digestOf } from '../../src/oci/digest.ts'
import type { Content } from './images.ts'
import './folders-last.ts'
import { startUpstream, type UpstreamOptions, type UpstreamSimulator } from './upstream.ts'

export interface MirrorOptions extends Omit<AppOverrides, 'log'> {
  /** Of the configuration, merged over a small default. */
  cache?: Record<string, unknown>
  /** Of the upstream `docker.io`. */
  upstream?: Record<string, unknown>
  /** Further parts of the configuration. */
  config?: Record<string, unknown>
  root?: string
  log?: AppOverrides['log']
}

export interface Mirror extends AsyncDisposable {
  readonly app: App
  readonly url: string
  readonly root: string
  /** Lines of the log, parsed. */
  readonly lines: Record<string, unknown>[]
  close(): Promise<void>
}

const folders = new WeakMap<Test, number>()

/** Of this test, and of nobody else in it: `t.testdir()` would empty the folder of whoever runs already. */
export function ownFolder(t: Test): string {
  const earlier = folders.get(t) ?? 0
  folders.set(t, earlier + 1)
  if (earlier === 0) return t.testdir()
  const folder = path.join(t.testdirName, `another-${earlier}`)
  mkdirSync(folder)
  return folder
}

/** Starts entrepot with `upstream` as its `docker.io`. */
export async function startMirror(
  t: Test,
  upstream: UpstreamSimulator | { url: string },
  options: MirrorOptions = {},
): Promise<Mirror> {
  const lines: Record<string, unknown>[] = []
  const { cache, upstream: settings, config: more, root: folder, log, ...overrides } = options
  const root = folder ?? ownFolder(t)
  const text = JSON.stringify({
    server: { port: 0 },
    storage: { root },
    cache: { ...cache },
    upstreams: { 'docker.io': { url: upstream.url, default: true, ...settings } },
    ...more,
  })
  const { config } = loadConfig({ text, env: {} })
  const app = createApp(config, {
    log:
      log ??
      createLog({
        level: 'debug',
        write: (line) => {
          lines.push(JSON.parse(line) as Record<string, unknown>)
        },
      }),
    ...overrides,
  })
  const { url } = await app.start()
  let closed: Promise<void> | undefined
  const close = (): Promise<void> => (closed ??= app.close(1_000))
  t.teardown(close)
  return { app, url, root, lines, close, [Symbol.asyncDispose]: close }
}

export async function simulate(t: Test, options: UpstreamOptions = {}): Promise<UpstreamSimulator> {
  const upstream = await startUpstream(options)
  t.teardown(() => upstream.close())
  return upstream
}

export interface Pulled {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly body: Buffer
  /** Why the body did not come to its end. */
  readonly broken: Error | undefined
  readonly cache: string | undefined
}

/** A GET whose body is read to its end, good or bad. */
export async function pull(
  url: string,
  headers: Record<string, string> = {},
  method: 'GET' | 'HEAD' = 'GET',
): Promise<Pulled> {
  const response = await request(url, { method, headers, headersTimeout: 60_000, bodyTimeout: 60_000 })
  const chunks: Buffer[] = []
  let broken: Error | undefined
  try {
    for await (const chunk of response.body) chunks.push(chunk as Buffer)
  } catch (error) {
    broken = error as Error
  }
  const cache = response.headers['x-cache']
  return {
    status: response.statusCode,
    headers: response.headers,
    body: Buffer.concat(chunks),
    broken,
    cache: typeof cache === 'string' ? cache : undefined,
  }
}

/** A GET whose body is compared as it comes, not kept: for herds. Hashing a hundred of them takes too long. */
export async function pullSame(
  url: string,
  content: Content,
): Promise<{ status: number; same: boolean; bytes: number; broken: boolean; cache: string | undefined }> {
  const response = await request(url, { headersTimeout: 60_000, bodyTimeout: 60_000 })
  let bytes = 0
  let same = true
  let broken = false
  try {
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      same &&= content.bytes.subarray(bytes, bytes + chunk.length).equals(chunk)
      bytes += chunk.length
    }
  } catch {
    broken = true
  }
  const cache = response.headers['x-cache']
  return {
    status: response.statusCode,
    same: same && bytes === content.bytes.length,
    bytes,
    broken,
    cache: typeof cache === 'string' ? cache : undefined,
  }
}

/** A client that takes so many bytes and leaves. */
export async function pullSome(
  url: string,
  atLeast: number,
  headers: Record<string, string> = {},
): Promise<Buffer> {
  const response = await request(url, { headers })
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of response.body as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    bytes += chunk.length
    // Leaving the loop destroys the body, and so the connection.
    if (bytes >= atLeast) break
  }
  return Buffer.concat(chunks)
}

/** A client that takes the head and then nothing, until it is told to leave. */
export async function stall(url: string): Promise<() => void> {
  const { body } = await request(url)
  body.on('error', () => undefined)
  return () => body.destroy()
}

export function isWhole(pulled: Pulled, content: Content): boolean {
  return pulled.broken === undefined && digestOf(pulled.body) === content.digest
}

/** Every fill has been adopted and written down, or given up, and nothing is fetched ahead any more. */
export async function settled(mirror: Pick<Mirror, 'url'>): Promise<void> {
  await eventually('all fills have settled', async () => {
    const metrics = await pull(`${mirror.url}/metrics`)
    return ['entrepot_fills_in_flight 0', 'entrepot_prefetches_in_flight 0'].every((it) =>
      metrics.body.includes(it),
    )
  })
}

/**
 * Everything that is in the index by now has come back to whoever wrote it. Who reads the index sees a commit before its
 * writer has heard of it, and a question that is asked again until then joins the one that brought the answer.
 */
export async function heard({ app }: Pick<Mirror, 'app'>): Promise<void> {
  await app.metadata.transaction((tx) => tx.markPulled(digestOf(Buffer.alloc(0)), 0))
}

/** Long enough for a machine that has much else to do: what never comes true is seldom, and may take its time to fail. */
const AT_MOST_MS = 60_000

/** Polls what has no event, for at most a minute. */
export async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + AT_MOST_MS
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`never came true: ${what}`)
    await sleep(10)
  }
}
