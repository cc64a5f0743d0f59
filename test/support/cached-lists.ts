/**
 * A mirror whose `library/app` has one image with a signature, for tests of the lists that it keeps.
 */
import type { Test } from 'tap'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { tagQuestion } from '../../src/storage/metadata/upstream-answer-index.ts'
import { eventually, heard, ownFolder, pull, startMirror, type Pulled } from './app.ts'
import { image } from './images.ts'
import { startTwoUpstreams, type TwoUpstreams, type TwoUpstreamsOptions } from './two-upstreams.ts'

export const one = image({ layers: [10], seed: 'one' })
export const signature = image({ layers: [10], seed: 'signature', subject: one.manifest })
export const subject = one.manifest.digest
export const FALLBACK = subject.replace(':', '-')

/** What clients ask beside content, of a manifest that is here. */
export const LIST = 'app/tags/list'
export const REFERRERS = `app/referrers/${subject}`
export const ABSENT = 'app/manifests/nothing'

export const APP = { registry: 'docker.io', name: parseRepositoryName('library/app') }
export const MINUTE = 60_000
export const DAY = 86_400_000

export interface Scene extends TwoUpstreams {
  /** The wall clock goes on by so much. */
  readonly pass: (ms: number) => void
  readonly heard: () => Promise<void>
  readonly restart: (options?: TwoUpstreamsOptions) => Promise<void>
  readonly root: string
}

/** `library/app` has one image, with a signature; a client has pulled it, and all is written down. */
export async function scene(t: Test, options: TwoUpstreamsOptions = {}): Promise<Scene> {
  let now = Date.now()
  const root = ownFolder(t)
  const all = { root, now: () => now, budgetMs: 1_500, staleBudgetMs: 700, ...options }
  const two = await startTwoUpstreams(t, all)
  two.hub.addImage('library/app', '1', one)
  two.hub.addImage('library/app', undefined, signature)
  let { url } = two.mirror
  let current = two.mirror
  const get = (path: string): Promise<Pulled> => pull(`${url}/v2/${path}`)
  await eventually('it is kept', async () => (await get('app/manifests/1')).cache === 'hit')
  await heard(two.mirror)
  return {
    ...two,
    root,
    get,
    heard: () => heard(current),
    head: (path) => pull(`${url}/v2/${path}`, {}, 'HEAD'),
    pass: (ms) => {
      now += ms
    },
    restart: async (more = {}) => {
      await current.close()
      const { cache, ...rest } = { ...all, ...more }
      const mirror = await startMirror(t, two.hub, { ...rest, ...(cache === undefined ? {} : { cache }) })
      url = mirror.url
      current = mirror
    },
  }
}

/** Asked until the answer is written down, which goes on behind it. */
export async function ask(scene: Pick<Scene, 'get' | 'heard' | 'mirror'>, path: string): Promise<Pulled> {
  const answer = await scene.get(path)
  await eventually(`${path} is remembered`, async () => {
    const again = await scene.get(path)
    if (again.status !== 404) return again.cache === 'hit'
    const tag = tagQuestion(parseTag(path.split('/').at(-1) ?? ''))
    return (await scene.mirror.app.metadata.upstreamAnswers.get(APP, tag)) !== undefined
  })
  await scene.heard()
  return answer
}

export function isStale(t: Test, answer: Pulled, status: number): void {
  t.equal(answer.status, status)
  t.equal(answer.cache, 'stale')
  t.match(answer.headers['warning'], /^299 - "docker\.io /)
}

/** The digests of a list of referrers, in its order. */
export function manifestDigest({ body }: Pulled): string[] {
  const { manifests } = JSON.parse(body.toString()) as { manifests: { digest: string }[] }
  return manifests.map(({ digest }) => digest)
}
