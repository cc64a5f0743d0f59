/** A client that uploads to a mirror of its own. */
import type { Test } from 'tap'
import { startMirror, type Mirror, type MirrorOptions } from './app.ts'
import { call, type Reply, type RequestOptions } from './http-fakes.ts'

export const UPLOADS = '/v2/team/app/blobs/uploads/'

/** Nobody listens there; a local name never gets that far. */
const NO_UPSTREAM = { url: 'http://127.0.0.1:9' }

export interface Client {
  readonly mirror: Mirror
  readonly port: number
  readonly ask: (method: string, path: string, options?: Omit<RequestOptions, 'method'>) => Promise<Reply>
  /** Starts a session; its location. */
  readonly begin: (query?: string) => Promise<string>
  /** How many bytes are here, by the session's status. */
  readonly standing: (location: string) => Promise<string | undefined>
  /** The bytes of a blob of the repository, if it can be pulled. */
  readonly pulled: (digest: string) => Promise<Buffer | undefined>
}

export async function start(t: Test, options: MirrorOptions = {}): Promise<Client> {
  const mirror = await startMirror(t, NO_UPSTREAM, { config: { local: ['team/**'] }, ...options })
  const ask: Client['ask'] = (method, path, more) => call(`${mirror.url}${path}`, { ...more, method })
  return {
    mirror,
    port: Number(new URL(mirror.url).port),
    ask,
    begin: async (query = '') => {
      const { status, headers } = await ask('POST', `${UPLOADS}${query}`)
      t.equal(status, 202)
      return headers.location ?? ''
    },
    standing: async (location) => {
      const { status, headers } = await ask('GET', location)
      return status === 204 ? headers.range : String(status)
    },
    pulled: async (digest) => {
      const { status, body } = await ask('GET', `/v2/team/app/blobs/${digest}`)
      return status === 200 ? body : undefined
    },
  }
}

export function chunk(
  content: Buffer,
  first: number,
  last: number,
  unit = '',
): Omit<RequestOptions, 'method'> {
  const body = content.subarray(first, last + 1)
  return {
    body,
    headers: { 'Content-Range': `${unit}${first}-${last}`, 'Content-Length': String(body.length) },
  }
}
