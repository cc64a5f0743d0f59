/**
 * Many clients doing anything at any time, while upstream and the disk do theirs: whatever arrives whole is right.
 *
 * What happens follows from a seed, which is printed; `STORM_SEED=n` brings it back, as far as timing allows,
 * and `STORM_SEED=new` makes one up.
 */
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { Agent, request } from 'undici'
import { image, type Content, type Image } from '../support/images.ts'
import {
  eventually,
  pull,
  pullSame,
  settled,
  simulate,
  startMirror,
  type MirrorOptions,
} from '../support/app.ts'
import { FaultyFiles } from '../support/faulty-files.ts'
import { randomOf } from '../support/power-loss-luck.ts'
import { closeClients, holdsNoMore, resources, warmUp } from '../support/resources.ts'
import { said } from '../support/trouble.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'
import type { Behaviour } from '../support/upstream-rules.ts'

const KiB = 1024
const MiB = 1024 * KiB

const CLIENTS = 16
const DURATION_MS = 3_000
/** No request may take longer, whatever happens: the slowest fault is an upstream that is silent for a second. */
const HANGING_MS = 25_000

/** What upstream said is written down behind the answers, so soon where the disk takes it. */
const REMEMBERED_WITHIN_MS = 1000

/** Around everything that makes a difference: nothing, the hold-back, a far-ahead range. */
const SIZES = [0, 1, 20 * KiB, 64 * KiB, 64 * KiB + 1, 300 * KiB, MiB, 3 * MiB, 5 * MiB, 14 * MiB]

interface Dice {
  /** [0, below) */
  number(below: number): number
  chance(probability: number): boolean
  of<T>(all: readonly T[]): T
}

function diceOf(seed: number): Dice {
  const random = randomOf(seed)
  const number = (below: number): number => Math.floor(random() * below)
  return {
    number,
    chance: (probability) => random() < probability,
    of: <T>(all: readonly T[]): T => all[number(all.length)]!,
  }
}

interface Tally {
  right: number
  /** Errors that said so, and bodies that broke off. */
  refused: number
  left: number
  /** Parts of a corrupt download. */
  unverified: number
  readonly wrong: string[]
  readonly hanging: string[]
}

/** What was done to upstream's answers, by digest. */
interface Injected {
  readonly mismatches: Map<string, number>
  /** Bodies sent again from byte 0 although the rest was asked for. */
  readonly repeats: Map<string, number>
}

class Storm {
  readonly tally: Tally = { right: 0, refused: 0, left: 0, unverified: 0, wrong: [], hanging: [] }
  readonly images: { readonly name: string; readonly image: Image }[] = []
  readonly injected: Injected = { mismatches: new Map(), repeats: new Map() }
  /** By name: since when a client has a manifest of it, as performance.now() tells time. */
  readonly #served = new Map<string, number>()
  readonly #agent = new Agent({ connections: null })
  readonly #v2: string
  readonly #upstream: UpstreamSimulator

  readonly #diskFails: boolean

  constructor(url: string, upstream: UpstreamSimulator, diskFails: boolean) {
    this.#v2 = `${url}/v2`
    this.#upstream = upstream
    this.#diskFails = diskFails
  }

  get blobs(): Content[] {
    const all = this.images.flatMap((it) => it.image.blobs)
    return [...new Map(all.map((blob) => [blob.digest, blob])).values()]
  }

  /** Something new to pull, that shares layers with what was there before. */
  grow(dice: Dice): void {
    const name = `app-${this.images.length}`
    const layers = Array.from({ length: 4 }, () => {
      const size = dice.of(SIZES)
      return { size, seed: dice.chance(0.3) ? `shared ${size}` : `${name} ${size} ${dice.number(1e9)}` }
    })
    const added = { name, image: image({ layers, seed: name }) }
    this.#upstream.addImage(`library/${name}`, '1', added.image)
    this.images.push(added)
  }

  /** The latest are wanted most. */
  #pick(dice: Dice): { readonly name: string; readonly image: Image } {
    return dice.of(dice.chance(0.8) ? this.images.slice(-2) : this.images)
  }

  async client(dice: Dice, until: number): Promise<void> {
    while (performance.now() < until) {
      const { name, image: wanted } = this.#pick(dice)
      const { manifest, blobs } = wanted
      const base = `${this.#v2}/library/${name}`
      if (dice.chance(0.15)) {
        const reference = dice.chance(0.5) ? '1' : manifest.digest
        await this.#ask(dice, `${base}/manifests/${reference}`, manifest)
      } else {
        const blob = dice.of(blobs)
        await this.#ask(dice, `${base}/blobs/${blob.digest}`, blob, rangeFor(dice, blob.bytes.length))
      }
    }
  }

  /** Something goes wrong upstream, for one answer. */
  disturb(dice: Dice): void {
    const blob = dice.of(this.#pick(dice).image.blobs)
    const size = blob.bytes.length
    const within = (): number => dice.number(Math.max(size, 1))
    const behaviour = dice.of<() => Behaviour>([
      () => ({ dropAfterBytes: within(), how: dice.of(['rst', 'fin', 'cleanChunkEnd'] as const) }),
      () => ({ status: dice.of([500, 502, 429]) }),
      () => ({ corrupt: dice.chance(0.5) ? 'tail' : within() }),
      () => ({ ignoreRange: true }),
      () => ({ bytesPerSecond: 2 * MiB }),
      () => ({ hang: dice.of(['headers', 'midBody'] as const) }),
      () => ({ noContentLength: true }),
      () => ({ latencyMs: dice.number(300) }),
    ])()
    const matcher = { kind: 'blob', method: 'GET', ref: blob.digest, times: 1 } as const
    this.#upstream.fault(matcher, behaviour)
    if (behaviour.corrupt !== undefined) increment(this.injected.mismatches, blob.digest)
    if (behaviour.ignoreRange === true) increment(this.injected.repeats, blob.digest)
  }

  async close(): Promise<void> {
    await this.#agent.close()
  }

  #isServed(url: string): void {
    const name = nameIn(url)
    if (!this.#served.has(name)) this.#served.set(name, performance.now())
  }

  /** A client has had a manifest of that name for so long that it must have been remembered. */
  #isRemembered(url: string, now: number): boolean {
    // Without its bytes a manifest is not written down, and the name with it.
    return !this.#diskFails && (this.#served.get(nameIn(url)) ?? Infinity) < now - REMEMBERED_WITHIN_MS
  }

  async #ask(dice: Dice, url: string, content: Content, range?: string): Promise<void> {
    const { tally } = this
    const isHead = dice.chance(0.1)
    const leavesAfter = dice.chance(0.2) ? dice.number(content.bytes.length + 1) : Infinity
    const impatience = dice.chance(0.05) ? dice.number(50) : undefined
    const leave = new AbortController()
    const hanging = AbortSignal.timeout(HANGING_MS)
    const timer = impatience === undefined ? undefined : setTimeout(() => leave.abort(), impatience)
    const began = performance.now()
    const what = `${isHead ? 'HEAD' : 'GET'} ${url} ${range ?? ''}`
    try {
      const response = await request(url, {
        dispatcher: this.#agent,
        method: isHead ? 'HEAD' : 'GET',
        headers: range === undefined ? {} : { range },
        signal: AbortSignal.any([leave.signal, hanging]),
        headersTimeout: 0,
        bodyTimeout: 0,
      })
      const chunks: Buffer[] = []
      let length = 0
      for await (const chunk of response.body as AsyncIterable<Buffer>) {
        chunks.push(chunk)
        length += chunk.length
        if (length >= leavesAfter) {
          leave.abort()
          break
        }
      }
      if (leave.signal.aborted) tally.left += 1
      else if (response.statusCode >= 400 && response.statusCode !== 416) {
        // A HEAD in a name of which nothing could be written down yet may begin a push: it hears whether that is taken.
        const mayBePush = isHead && !this.#isRemembered(url, began)
        const refusals = mayBePush ? [403, 404, 429, 502, 503] : [429, 502, 503]
        if (refusals.includes(response.statusCode)) tally.refused += 1
        else tally.wrong.push(`${what}: ${response.statusCode} ${String(Buffer.concat(chunks))}`)
      } else {
        const type = response.headers['content-type']
        const problem = isHead
          ? isHeadRight(response.headers['content-length'], content)
          : problemOf(response.statusCode, String(type), Buffer.concat(chunks), content.bytes, range)
        // Parts of what is still coming in are as upstream sends them.
        const asSent =
          response.statusCode === 206 &&
          response.headers['x-cache'] !== 'hit' &&
          this.injected.mismatches.has(content.digest)
        if (problem === undefined && !isHead && url.includes('/manifests/')) this.#isServed(url)
        if (problem === undefined) tally.right += 1
        else if (asSent) tally.unverified += 1
        else tally.wrong.push(`${what}: ${problem}`)
      }
    } catch {
      if (leave.signal.aborted) tally.left += 1
      else if (hanging.aborted) tally.hanging.push(what)
      else tally.refused += 1
    } finally {
      clearTimeout(timer)
    }
  }
}

function increment(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

function rangeFor(dice: Dice, size: number): string | undefined {
  const at = (): number => dice.number(size + 2)
  return dice.of<() => string | undefined>([
    () => undefined,
    () => undefined,
    () => 'bytes=0-',
    () => `bytes=${at()}-`,
    () => `bytes=-${at()}`,
    () => {
      const start = at()
      return `bytes=${start}-${start + dice.number(100 * KiB)}`
    },
    () => `bytes=0-9,${at()}-${size + 5}`,
  ])()
}

function nameIn(url: string): string {
  return url.split('/library/')[1]?.split('/')[0] ?? ''
}

function isHeadRight(length: string | string[] | undefined, { bytes }: Content): string | undefined {
  // Of a part, HEAD may say either; ours takes no ranges.
  return length === String(bytes.length) ? undefined : `Content-Length ${String(length)} of ${bytes.length}`
}

/** Undefined: every byte is right. */
function problemOf(
  status: number,
  type: string,
  body: Buffer,
  bytes: Buffer,
  range: string | undefined,
): string | undefined {
  const size = bytes.length
  const asked = (range ?? '')
    .replace('bytes=', '')
    .split(',')
    .map((spec) => /^(\d*)-(\d*)$/.exec(spec))
    .map((found) =>
      found === null
        ? undefined
        : found[1] === ''
          ? { start: Math.max(size - Number(found[2]), 0), end: size }
          : { start: Number(found[1]), end: found[2] === '' ? size : Math.min(Number(found[2]) + 1, size) },
    )
    .filter((it) => it !== undefined && it.start < it.end && it.start < size)
    .map((it) => it!)
  if (status === 416) return asked.length === 0 ? undefined : 'refused a good range'
  if (status === 200) return body.equals(bytes) ? undefined : `${body.length} bytes that are not the blob`
  if (status !== 206) return `status ${status}`
  if (!type.startsWith('multipart/')) {
    const [only] = asked
    if (only === undefined) return 'a part of nothing'
    return body.equals(bytes.subarray(only.start, only.end)) ? undefined : 'wrong bytes in a part'
  }
  let rest = body
  for (const { start, end } of asked) {
    const head = rest.indexOf('\r\n\r\n') + 4
    if (!rest.toString('latin1', 0, head).includes(`bytes ${start}-${end - 1}/${size}`)) return 'another part'
    if (!rest.subarray(head, head + end - start).equals(bytes.subarray(start, end)))
      return 'wrong bytes in a part'
    rest = rest.subarray(head + end - start)
  }
  return undefined
}

async function storm(
  t: Test,
  name: string,
  options: { disk?: boolean; mirror?: MirrorOptions } = {},
): Promise<void> {
  // The same storm each time unless asked otherwise: a red run should tell of a change, not of the dice.
  const asked = process.env['STORM_SEED'] ?? '1'
  const seed = asked === 'new' ? Math.floor(Math.random() * 2 ** 31) : Number(asked)
  t.comment(`${name}: STORM_SEED=${seed}`)
  const dice = diceOf(seed)
  await warmUp(t)
  const before = resources()
  const memoryBefore = process.memoryUsage().rss
  const upstream = await simulate(t, { latencyMs: 2, bytesPerSecond: 30 * MiB })
  const files = new FaultyFiles()
  let shift = 0
  const mirror = await startMirror(t, upstream, {
    files: files.files,
    now: () => Date.now() + shift,
    upstream: { timeouts: { idle: '1s', headers: '1s', connect: '1s' } },
    ...options.mirror,
  })
  const world = new Storm(mirror.url, upstream, options.disk === true)
  world.grow(dice)
  const until = performance.now() + DURATION_MS
  const clients = Array.from({ length: CLIENTS }, (_, index) => world.client(diceOf(seed + index + 1), until))
  while (performance.now() < until) {
    await sleep(20 + dice.number(40))
    world.disturb(dice)
    if (dice.chance(0.15)) world.grow(dice)
    // So long an upstream that could not be reached is left alone.
    if (dice.chance(0.2)) shift += 11_000
    if (options.disk !== true || !dice.chance(0.2)) continue
    if (files.failing.size > 0 || files.room !== Infinity) files.heal()
    else if (dice.chance(0.5)) files.room = dice.number(4 * MiB)
    else files.failing.set(dice.of(['create', 'write', 'rename', 'datasync', 'open', 'remove']), 'EIO')
  }
  await Promise.all(clients)
  await world.close()
  files.heal()
  upstream.rules.clear()
  const { tally } = world
  t.comment(
    `right ${tally.right}, refused or broken off ${tally.refused}, left ${tally.left}, unverified ${tally.unverified}`,
  )
  t.same(tally.wrong, [])
  t.same(tally.hanging, [])
  t.ok(tally.right > tally.refused, 'most are answered')

  // A download that began in the storm may fail by it yet, and whoever joined it too.
  await settled(mirror)
  // Longer than anything bad is remembered.
  shift += 700_000
  upstream.set({ bytesPerSecond: undefined })
  for (const { name: it, image: content } of world.images) {
    const { manifest, blobs } = content
    const base = `${mirror.url}/v2/library/${it}`
    t.ok((await pull(`${base}/manifests/1`)).body.equals(manifest.bytes))
    for (const blob of blobs) t.ok((await pullSame(`${base}/blobs/${blob.digest}`, blob)).same)
  }
  await settled(mirror)
  if (options.disk !== true) {
    // Manifests are written down behind their answers.
    const partials = (): string[] => readdirSync(path.join(mirror.root, 'ingest'))
    await eventually('no partial is left', () => partials().length === 0)
    // What is given up may have left upstream by then, all of it.
    if (options.mirror?.cache?.['finishAbandoned'] !== 'never')
      t.same(tooOften(upstream, world.blobs, world.injected), [])
  }
  t.same(said(mirror, 'error'), [])
  await eventually('every file is closed', () => files.opened === 0)
  const contents = world.blobs.reduce((sum, { bytes }) => sum + bytes.length, 0)
  t.ok(process.memoryUsage().rss < memoryBefore + contents + 500 * MiB, 'memory is sane')
  await mirror.close()
  await upstream.close()
  await closeClients()
  await holdsNoMore(t, before)
}

/** Blobs that crossed the wire more often than somebody had made sure that they had to. */
function tooOften(upstream: UpstreamSimulator, blobs: readonly Content[], injected: Injected): string[] {
  return blobs.flatMap(({ digest, bytes: { length: size } }) => {
    // Of a small one all is on its way before anybody can call it off.
    if (size < 300 * KiB) return []
    const whole = upstream.log
      .of({ kind: 'blob', method: 'GET', ref: digest })
      .filter((entry) => !entry.aborted && entry.status < 300 && entry.bytesSent === size).length
    const allowed = 1 + (injected.mismatches.get(digest) ?? 0) + (injected.repeats.get(digest) ?? 0)
    return whole > allowed ? [`${digest}, ${size} bytes: ${whole} times instead of ${allowed}`] : []
  })
}

test('clients and faults at random', (t) => storm(t, 'faults'))

test('clients and faults at random, where nothing is finished that nobody waits for', (t) =>
  storm(t, 'abandoned', { mirror: { cache: { finishAbandoned: 'never', tagTtl: '100ms' } } }))

test('clients and faults at random, on a disk that fails now and then', (t) =>
  storm(t, 'disk', { disk: true }))
