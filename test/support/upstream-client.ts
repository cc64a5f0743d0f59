/**
 * A simulated registry with our client in front of it, both gone at the end of the test.
 */
import type { Test } from 'tap'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { createMetrics, type Metrics } from '../../src/telemetry/metrics.ts'
import { RegistryClient, type RegistryClientOptions } from '../../src/upstream/client/registry-client.ts'
import { Account, FixedCredentials, type Credentials } from '../../src/upstream/login/credentials.ts'
import { UpstreamError, type UpstreamBlob } from '../../src/upstream/upstream.ts'
import { image, type Image } from './images.ts'
import { startUpstream, type UpstreamOptions, type UpstreamSimulator } from './upstream.ts'

export const NAME = parseRepositoryName('library/thing')
export const LATEST = parseTag('latest')

export interface Connected {
  readonly upstream: UpstreamSimulator
  readonly client: RegistryClient
  readonly metrics: Metrics
  /** Held by the upstream as `library/thing:latest`. */
  readonly image: Image
  /** Of the test: aborted at its end. */
  readonly signal: AbortSignal
}

export interface ClientOptions extends Partial<RegistryClientOptions> {
  /** In place of an `account`. */
  credentials?: Credentials | undefined
}

export async function connect(
  t: Test,
  upstreamOptions: UpstreamOptions = {},
  clientOptions: ClientOptions = {},
  held: Image = image({ layers: [100_000, 1000] }),
): Promise<Connected> {
  const upstream = await startUpstream(upstreamOptions)
  t.teardown(() => upstream.close())
  upstream.addImage(NAME, LATEST, held)
  const metrics = createMetrics()
  const client = clientFor(t, { url: upstream.url, metrics, ...clientOptions })
  const ending = new AbortController()
  t.teardown(() => ending.abort(new Error('the test is over')))
  return { upstream, client, metrics, image: held, signal: ending.signal }
}

/** Not a single wait of its own: retries come at once, and time-outs are as long as a test may take. */
export function clientFor(t: Test, options: ClientOptions & { url: string }): RegistryClient {
  const { credentials, key = 'docker.io', metrics = createMetrics() } = options
  const source = credentials && new FixedCredentials(credentials)
  const client = new RegistryClient({
    key,
    account: new Account({ key, source, metrics }),
    maxConnections: 8,
    timeouts: { connect: 60_000, headers: 60_000, idle: 60_000 },
    backoffMs: 1,
    ...options,
    metrics,
  })
  t.teardown(() => client.close())
  return client
}

export async function bytesOf(blob: UpstreamBlob | undefined): Promise<Buffer> {
  if (blob === undefined) throw new Error('there is no such blob')
  const chunks: Buffer[] = []
  for await (const batch of blob.body) chunks.push(...batch)
  return Buffer.concat(chunks)
}

/** What `promise` fails with, which must be an UpstreamError. */
export async function failureOf(promise: Promise<unknown>): Promise<UpstreamError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof UpstreamError) return error
    throw error
  }
  throw new Error('it did not fail')
}

export async function valueOf(
  metric: { get(): Promise<{ values: { value: number; labels: Record<string, unknown> }[] }> },
  labels: Record<string, string>,
): Promise<number> {
  const { values } = await metric.get()
  return values
    .filter((it) => Object.entries(labels).every(([name, value]) => it.labels[name] === value))
    .reduce((sum, { value }) => sum + value, 0)
}
