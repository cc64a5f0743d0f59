/**
 * Requests and upstreams' answers of hostile shape, by the thousand. A failure tells its seed: with
 * ENTREPOT_FUZZ_SEED it comes again.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { pull, simulate } from '../support/app.ts'
import { HostileUpstream } from '../support/fuzz/answers.ts'
import { digest } from '../support/fuzz/documents.ts'
import { Random, seedOf } from '../support/fuzz/random.ts'
import { batchOf, DENIED, type Batch } from '../support/fuzz/requests.ts'
import { answersIn, exchange, type Answer } from '../support/fuzz/wire.ts'
import { image, type Image } from '../support/images.ts'
import type { Entrepot } from '../support/process.ts'
import { pushImage } from '../support/push.ts'
import { resident, startAsUsual } from '../support/strangers/watching.ts'
import '../support/folders-last.ts'

const SEED = seedOf('ENTREPOT_FUZZ_SEED')
const REQUESTS = 50_000
const ANSWERS = 5_000

/** Connections, and questions, at once. */
const LANES = 12
const QUESTIONS = 64

/** An upstream that breaks off is left alone for a while: of so many there is always another. */
const UPSTREAMS = 400

/** Of cases, between two looks at the server. */
const CHECK_EVERY = 250

const MOST_RESIDENT = 600 * 2 ** 20
const MOST_SESSIONS = 40

const MINE = image({ seed: 'pushed before', layers: [70_000, 100] })
const CACHED = image({ seed: 'cached before', layers: [60_000, 200] })

interface Scene {
  readonly entrepot: Entrepot
  readonly dir: string
  readonly fail: (number: number, why: string, shown: string) => void
  readonly failures: string[]
}

/** A server that holds a pushed and a cached image. */
async function open(t: Test, more: Record<string, unknown> = {}): Promise<Scene> {
  t.comment(`ENTREPOT_FUZZ_SEED=${SEED}`)
  const upstream = await simulate(t)
  upstream.addImage('library/cached', '1', CACHED)
  const dir = t.testdir()
  const entrepot = await startAsUsual(t, {
    dir,
    config: {
      local: ['team/**', 'secret/**'],
      push: { deny: ['library/**', 'secret/**'] },
      cache: { tagTtl: '30d' },
      ...more,
      upstreams: { 'docker.io': { url: upstream.url, default: true }, ...(more['upstreams'] as object) },
    },
  })
  t.equal((await pushImage(`${entrepot.url}/v2/team/sentinel`, MINE, '1')).status, 201)
  const failures: string[] = []
  const scene = {
    ...{ entrepot, dir, failures },
    fail: (number: number, why: string, shown: string) => {
      failures.push(`case ${number} of seed ${SEED}: ${why}`)
      if (failures.length <= 5) t.comment(`${failures.at(-1)}\n${shown}`)
    },
  }
  await holdsBoth(t, scene)
  return scene
}

async function holds(url: string, { manifest, blobs }: Image, reference: string): Promise<boolean> {
  const first = await pull(`${url}/manifests/${reference}`)
  const rest = await Promise.all(blobs.map((it) => pull(`${url}/blobs/${it.digest}`)))
  return first.body.equals(manifest.bytes) && rest.every(({ body }, at) => body.equals(blobs[at]!.bytes))
}

async function holdsBoth(t: Test, { entrepot }: Scene): Promise<void> {
  t.ok(await holds(`${entrepot.url}/v2/team/sentinel`, MINE, '1'), 'what was pushed before is there')
  t.ok(await holds(`${entrepot.url}/v2/library/cached`, CACHED, '1'), 'and what was cached')
}

/** Runs cases until none is left, some at once; stops at the first few failures. */
async function inLanes(
  { entrepot, failures, fail }: Scene,
  lanes: number,
  next: () => number | undefined,
  work: (number: number) => Promise<void>,
): Promise<void> {
  const lane = async (): Promise<void> => {
    for (let number = next(); number !== undefined && failures.length < 5; number = next()) {
      await work(number)
      if (number % CHECK_EVERY !== 0) continue
      const { status } = await pull(`${entrepot.url}/livez`).catch((error: unknown) => ({
        status: String(error),
      }))
      if (status !== 200) fail(number, `/livez said ${status}`, '')
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
}

/** What has to be so whatever was asked and answered. */
async function end(t: Test, scene: Scene): Promise<void> {
  const { entrepot, dir, failures } = scene
  t.same(failures, [])
  await holdsBoth(t, scene)
  const { status, body } = await pull(`${entrepot.url}/v2/_catalog?n=1000`)
  t.equal(status, 200)
  const { repositories } = JSON.parse(body.toString()) as { repositories: string[] }
  t.same(
    repositories.filter(
      (it) => it.startsWith('secret/') || (it.startsWith('library/') && it !== 'library/cached'),
    ),
    [],
    'nothing went where nobody may push',
  )
  t.equal((await pull(`${entrepot.url}/v2/${DENIED}/tags/list`)).status, 404)
  const rss = resident(entrepot.program.pid ?? 0, 'VmRSS')
  t.comment(`${Math.round(rss / 2 ** 20)} MiB`)
  t.ok(rss < MOST_RESIDENT, `${rss} bytes`)
  await entrepot.program.stop()
  t.same(await entrepot.program.exited, { code: 0, signal: null })
  const alarms = entrepot.log.filter(({ level }) => level === 'error' || level === 'fatal')
  t.same(alarms.slice(0, 5), [], 'nothing was a bug')
  t.same(wrongBlobs(path.join(dir, 'data/blobs')), [], 'every file is what its name says')
}

function wrongBlobs(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).flatMap((entry) => {
    if (!entry.isFile()) return []
    const algorithm = path.relative(folder, entry.parentPath).split(path.sep)[0] ?? ''
    const bytes = readFileSync(path.join(entry.parentPath, entry.name))
    return createHash(algorithm).update(bytes).digest('hex') === entry.name ? [] : [entry.name]
  })
}

/** @returns what is wrong with it, and where uploads go on */
async function send(port: number, batch: Batch): Promise<{ why?: string; answers: readonly Answer[] }> {
  const came = await exchange(port, batch.bytes, batch.ends)
  let answers: readonly Answer[] = []
  try {
    answers = answersIn(came, batch.methods)
  } catch (error) {
    return { why: error instanceof Error ? error.message : String(error), answers }
  }
  const wrong = answers.find(({ status }) => status === 500)
  if (wrong !== undefined) return { why: `answer ${answers.indexOf(wrong)} is 500`, answers }
  if (came.timedOut) return { why: `no end after ${answers.length} answers`, answers }
  if (answers.length === 0 && !batch.ends && !came.reset) return { why: 'no answer', answers }
  return { answers }
}

test(`${REQUESTS} hostile requests`, { skip: process.platform !== 'linux' }, async (t) => {
  t.setTimeout(600_000)
  const scene = await open(t)
  const host = `127.0.0.1:${scene.entrepot.port}`
  const sessions: string[] = []
  const seen = new Map<number, number>()
  let heard = 0
  let number = 0
  const next = (): number | undefined => (heard < REQUESTS ? number++ : undefined)
  await inLanes(scene, LANES, next, async (at) => {
    const batch = batchOf(new Random(SEED, at), host, sessions)
    const { why, answers } = await send(Number(scene.entrepot.port), batch)
    if (why !== undefined)
      scene.fail(at, why, JSON.stringify(batch.bytes.toString('latin1')).slice(0, 20_000))
    // Of what stood behind the one that ended the connection nobody has heard.
    heard += Math.max(1, answers.length)
    for (const { status, headers } of answers) {
      seen.set(status, (seen.get(status) ?? 0) + 1)
      const location = headers.get('location')
      if (status !== 202 || location === undefined) continue
      sessions.push(location.replace(/^http:\/\/[^/]+/, ''))
      if (sessions.length > MOST_SESSIONS) sessions.shift()
    }
  })
  t.comment(
    [...seen]
      .sort()
      .map((it) => it.join(': '))
      .join(', '),
  )
  for (const status of [200, 201, 202, 400, 403, 404]) t.ok(seen.has(status), `some were ${status}`)
  await end(t, scene)
})

function questionOf(
  random: Random,
  number: number,
): { path: string; method: 'GET' | 'HEAD'; headers: Record<string, string> } {
  const name = `f${number % UPSTREAMS}.test/c${number}`
  const path = random.pick([
    `${name}/manifests/1`,
    `${name}/manifests/1`,
    `${name}/manifests/${digest(random)}`,
    `${name}/blobs/${digest(random)}`,
    `${name}/blobs/${digest(random)}`,
    `${name}/tags/list${random.pick(['', '?n=5', '?n=0', '?last=x'])}`,
    `${name}/referrers/${digest(random)}`,
  ])
  const ranged = random.chance(0.2) ? { range: random.pick(['bytes=0-1', 'bytes=-2', 'bytes=3-']) } : {}
  return { path, method: random.chance(0.2) ? 'HEAD' : 'GET', headers: ranged }
}

test(`${ANSWERS} hostile answers`, { skip: process.platform !== 'linux' }, async (t) => {
  t.setTimeout(600_000)
  await using hostile = await new HostileUpstream(SEED).listen()
  const keys = Array.from({ length: UPSTREAMS }, (_, at) => `f${at}.test`)
  // Each its own: an alias in the file for every one of them looks like an attack.
  const timeouts = { connect: '2s', headers: '2s', idle: '2s' }
  const scene = await open(t, {
    upstreams: Object.fromEntries(keys.map((key) => [key, { url: hostile.url, timeouts: { ...timeouts } }])),
  })
  const seen = new Map<number, number>()
  let number = 1
  const next = (): number | undefined => (hostile.answered < ANSWERS ? number++ : undefined)
  await inLanes(scene, QUESTIONS, next, async (at) => {
    const { path, method, headers } = questionOf(new Random(SEED, -at), at)
    const answered = await pull(`${scene.entrepot.url}/v2/${path}`, headers, method).catch(
      (error: unknown) => {
        scene.fail(at, `no answer to ${method} ${path}: ${String(error)}`, hostile.said(at))
      },
    )
    if (answered?.status === 500) scene.fail(at, `${method} ${path} is 500`, hostile.said(at))
    if (answered !== undefined) seen.set(answered.status, (seen.get(answered.status) ?? 0) + 1)
    hostile.forget(at)
  })
  t.comment(
    `${number} questions: ${[...seen]
      .sort()
      .map((it) => it.join(': '))
      .join(', ')}`,
  )
  await end(t, scene)
})
