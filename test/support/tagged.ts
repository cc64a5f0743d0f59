/**
 * One tag of a simulated Docker Hub, a mirror of it, and a clock of our own: what becomes of the tag in time.
 */
import type { Test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { eventually, heard, pull, simulate, startMirror, type MirrorOptions, type Pulled } from './app.ts'
import { image } from './images.ts'
import type { UpstreamOptions } from './upstream.ts'

export const MINUTE = 60_000
export const REPO = 'library/app'

/** `library/app:1`. */
export async function startTagged(t: Test, options: MirrorOptions = {}, hub: UpstreamOptions = {}) {
  const upstream = await simulate(t, hub)
  const first = image({ layers: [100], seed: 'first' })
  upstream.addImage(REPO, '1', first)
  const [name, tag] = [parseRepositoryName(REPO), parseTag('1')]
  const clock = { now: 1_700_000_000_000 }
  const mirror = await startMirror(t, upstream, {
    now: () => clock.now,
    staleBudgetMs: 3000,
    budgetMs: 5000,
    ...options,
    upstream: { timeouts: { connect: '1s', headers: '2s', idle: '2s' }, ...options.upstream },
  })
  const url = (reference = '1', repo = REPO): string => `${mirror.url}/v2/${repo}/manifests/${reference}`
  const get = (reference?: string, repo?: string): Promise<Pulled> => pull(url(reference, repo))
  const head = (reference?: string, repo?: string): Promise<Pulled> => pull(url(reference, repo), {}, 'HEAD')
  const record = () => mirror.app.metadata.tags.get({ registry: 'docker.io', name }, tag)
  const written = async (also = (): Promise<boolean> => Promise.resolve(true)): Promise<void> => {
    await eventually(
      'the tag is kept',
      async () => (await record())?.checkedAt === clock.now && (await also()),
    )
    await heard(mirror)
  }
  return {
    upstream,
    mirror,
    clock,
    first,
    url,
    get,
    head,
    blob: (digest: string, repo = REPO) => pull(`${mirror.url}/v2/${repo}/blobs/${digest}`),
    /** Of manifests. */
    asked: (method: 'GET' | 'HEAD'): number => upstream.log.count({ kind: 'manifest', method }),
    /** Resolves when what the tag is now is written down, so that nobody joins an answer of before. */
    warm: async (): Promise<void> => {
      await get()
      await written(async () => (await get()).cache === 'hit')
    },
    /** The same, of what a HEAD has said. */
    written,
    /** Tags are old now, and failures forgotten. */
    age: (): void => {
      clock.now += MINUTE + 1
    },
  }
}

/** Headers and body speak of the same thing. */
export function isConsistent({ status, headers, body }: Pulled): boolean {
  return (
    status === 200 &&
    headers['docker-content-digest'] === digestOf(body) &&
    headers['etag'] === `"${digestOf(body)}"` &&
    Number(headers['content-length']) === body.length
  )
}
