/**
 * One mirror in front of one registry of the world, and everything that a client may live through there.
 *
 * Requests follow each other, and nothing is fetched ahead, so that what the registry sees is always the same.
 */
import type { Test } from 'tap'
import { pull, settled, startMirror, type Mirror, type Pulled } from '../app.ts'
import { image, index, layer, type Content, type Image } from '../images.ts'
import { tagWritten } from '../scene.ts'
import type { Credentials } from '../upstream-auth.ts'
import type { LogEntry } from '../upstream-log.ts'
import { startProfile, type ProfileName, type RunningProfile } from './start.ts'

/** What happened in one situation, in words that fit in a table. */
export interface Row {
  readonly situation: string
  /** `3 × 200 miss`, or with an error code. */
  readonly client: string
  /** `token GET 1, manifest HEAD 1`; empty when nobody was asked. */
  readonly upstream: string
}

export interface Journey {
  readonly running: RunningProfile
  readonly rows: readonly Row[]
  /** Every answer that a client has had. */
  readonly answers: readonly Answered[]
  /** Every request that the registry, its token service and its CDN have had. */
  readonly log: readonly LogEntry[]
  /** Everything that was pulled, and must lie in the mirror's folder now. */
  readonly contents: readonly Content[]
  readonly root: string
}

export interface Answered {
  readonly method: 'GET' | 'HEAD'
  readonly pulled: Pulled
  /** What should have come; undefined where something else than content was asked for. */
  readonly wanted: Content | undefined
}

const TTL = 10_000
const WRONG = { username: 'someone', password: 'wrong: "pass"' }

/** Two platforms of two layers; one layer is large, and in both. */
export function build(seed: string, format: 'oci' | 'docker'): Image {
  const platform = (architecture: string): Image =>
    image({
      layers: [{ size: 1_500_000, seed: 'base' }, 20_000],
      seed: `${seed} ${architecture}`,
      architecture,
      format,
    })
  return index({ images: { amd64: platform('amd64'), arm64: platform('arm64') }, format })
}

function signatureOf(subject: Image): Image {
  return image({ layers: [300], seed: 'signature', subject: subject.manifest })
}

class Traveller {
  readonly rows: Row[] = []
  readonly answers: Answered[] = []
  readonly log: LogEntry[] = []
  readonly running: RunningProfile
  /** Now; a new one for other credentials. */
  mirror: Mirror
  readonly #now: () => number
  #since: Answered[] = []

  constructor(running: RunningProfile, mirror: Mirror, now: () => number) {
    this.running = running
    this.mirror = mirror
    this.#now = now
  }

  /** @param repository by the registry's own name */
  async ask(
    path: string,
    {
      wanted,
      method = 'GET',
      repository = this.running.profile.repository,
    }: { wanted?: Content; method?: 'GET' | 'HEAD'; repository?: string | undefined } = {},
  ): Promise<Pulled> {
    const { key } = this.running.profile
    const name = key === 'docker.io' ? repository.replace(/^library\//, '') : `${key}/${repository}`
    const pulled = await pull(`${this.mirror.url}/v2/${name}/${path}`, {}, method)
    this.#since.push({ method, pulled, wanted })
    return pulled
  }

  /** The order of every client: the tag, the platforms, their blobs. */
  async pullImage(tag: string, wanted: Image, repository?: string): Promise<void> {
    const { cache } = await this.ask(`manifests/${tag}`, { wanted: wanted.manifest, repository })
    for (const child of wanted.manifests) {
      if (child !== wanted.manifest)
        await this.ask(`manifests/${child.digest}`, { wanted: child, repository })
    }
    for (const blob of wanted.blobs) await this.ask(`blobs/${blob.digest}`, { wanted: blob, repository })
    if (cache === 'stale') return
    const { key, repository: usual } = this.running.profile
    await tagWritten(this.mirror, key, repository ?? usual, tag, this.#now())
  }

  async live(situation: string, through: () => Promise<unknown>): Promise<void> {
    await through()
    await settled(this.mirror)
    const seen = this.running.seen()
    this.rows.push({
      situation,
      client: countsOf(this.#since.map(({ pulled }) => wordsOf(pulled))),
      upstream: requestsOf(seen),
    })
    this.log.push(...seen)
    this.answers.push(...this.#since)
    for (const { log } of this.running.all) log.clear()
    this.#since = []
  }
}

export async function travel(t: Test, name: ProfileName): Promise<Journey> {
  const running = await startProfile(t, name)
  const { key, repository, format, account, closed } = running.profile
  const beside = (name: string): string => repository.replace(/[^/]*$/, name)
  const first = build('first', format)
  const second = build('second', format)
  const signature = signatureOf(first)
  const lone = layer({ size: 5_000, seed: 'lone' })
  running.addImage(repository, '1', first)
  running.addImage(repository, 'expired', second)
  running.addImage(repository, undefined, signature)
  running.addBlob(repository, lone)
  const secret = image({ layers: [70_000], seed: 'secret', format })
  running.addImage(beside('private'), '1', secret)
  const clock = { now: Date.now() }
  const root = t.testdir()
  const start = (as?: Credentials): Promise<Mirror> =>
    startMirror(t, running.registry, {
      root,
      now: () => clock.now,
      cache: { prefetch: 'off', tagTtl: `${TTL}ms` },
      config: {
        upstreams: { [key]: { url: running.registry.url, default: key === 'docker.io', ...as } },
      },
    })
  const traveller = new Traveller(running, await start(closed && account), () => clock.now)

  await traveller.live('cold', () => traveller.pullImage('1', first))
  await traveller.live('again', () => traveller.pullImage('1', first))
  clock.now += 1.5 * TTL
  await traveller.live('revalidated', () => traveller.pullImage('1', first))
  await traveller.live('HEAD of a tag', () =>
    traveller.ask('manifests/expired', { wanted: second.manifest, method: 'HEAD' }),
  )
  await traveller.live('HEAD of a blob', () =>
    traveller.ask(`blobs/${lone.digest}`, { wanted: lone, method: 'HEAD' }),
  )
  await traveller.live('tags', async () => {
    const page = await traveller.ask('tags/list?n=1')
    const next = /<[^>]*\/(tags\/list[^>]*)>/.exec(String(page.headers['link']))?.[1]
    if (next !== undefined) await traveller.ask(next)
  })
  await traveller.live('referrers', () => traveller.ask(`referrers/${first.manifest.digest}`))
  await traveller.live('missing tag', () => traveller.ask('manifests/missing'))
  await traveller.live('missing blob', () => traveller.ask(`blobs/sha256:${'0'.repeat(64)}`))
  await traveller.live('missing repository', () =>
    traveller.ask('manifests/1', { repository: beside('missing') }),
  )
  clock.now += 1.5 * TTL
  running.addImage(repository, '1', second)
  running.deleteTag(repository, 'expired')
  await traveller.live('moved', () => traveller.pullImage('1', second))

  await traveller.live('deleted', () => traveller.ask('manifests/expired'))

  const restart = async (as: Credentials): Promise<void> => {
    await traveller.mirror.close()
    traveller.mirror = await start(as)
    clock.now += 1.5 * TTL
  }
  const pullSecret = (): Promise<void> => traveller.pullImage('1', secret, beside('private'))
  await restart(WRONG)
  await traveller.live('wrong credentials, cached', () => traveller.pullImage('1', second))
  await traveller.live('wrong credentials, cold', () =>
    traveller.ask('manifests/1', { repository: beside('private') }),
  )
  await restart(account ?? WRONG)
  await traveller.live('right credentials, private', pullSecret)
  await traveller.mirror.close()

  const contents = [first, second, secret].flatMap(({ manifests, blobs }) => [...manifests, ...blobs])
  return {
    running,
    rows: traveller.rows,
    answers: traveller.answers,
    contents: [...new Map(contents.map((it) => [it.digest, it])).values()],
    root,
    log: traveller.log,
  }
}

function wordsOf({ status, headers, body, cache }: Pulled): string {
  const code = status >= 400 ? (/"code":"([^"]*)"/.exec(body.toString())?.[1] ?? '') : ''
  return [status, code, cache ?? '', headers['warning'] === undefined ? '' : 'warned']
    .filter((word) => word !== '')
    .join(' ')
}

function requestsOf(seen: readonly LogEntry[]): string {
  return counted(seen.map(({ kind, method }) => `${kind} ${method}`))
    .map(([what, count]) => `${what} ${count}`)
    .join(', ')
}

function countsOf(words: readonly string[]): string {
  return counted(words)
    .map(([what, count]) => (count === 1 ? what : `${count} × ${what}`))
    .join(', ')
}

function counted(all: readonly string[]): [string, number][] {
  const counts = new Map<string, number>()
  for (const it of all) counts.set(it, (counts.get(it) ?? 0) + 1)
  return [...counts]
}
