/**
 * One mirror and one simulated registry for many trials: something goes wrong with one image, two clients ask for
 * its layer, and afterwards all is well again.
 */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { isWhole, pull, settled, simulate, startMirror, type Mirror, type MirrorOptions } from './app.ts'
import type { Pulled } from './app.ts'
import { lookAtRest, partialsIn } from './at-rest.ts'
import { image, type Content } from './images.ts'
import type { LogEntry } from './upstream-log.ts'
import type { Behaviour, Matcher } from './upstream-rules.ts'
import type { UpstreamOptions, UpstreamSimulator } from './upstream.ts'

/** Longer than any failure is remembered. */
const LATER = 90_000

export interface Trial {
  /** In the order in which they are added: what is said last wins. */
  readonly faults?: readonly (readonly [Matcher, Behaviour])[]
  /** Instead of, or beside, faults. */
  readonly begin?: (upstream: UpstreamSimulator) => void | Promise<void>
  /** Ends what `begin` began; faults end by themselves. */
  readonly end?: (upstream: UpstreamSimulator) => void | Promise<void>
  /** Of the layer. Default a million bytes. */
  readonly size?: number
  /** Nobody has asked for the manifest, so nobody knows the layer's size. */
  readonly unknownSize?: boolean
  /** What both clients get: the layer, a transfer that breaks off, or this status. */
  readonly ends: 'served' | 'broken' | number
}

export interface Seen {
  readonly layer: Content
  readonly pulled: readonly Pulled[]
  /** For the layer, wherever they went. */
  readonly requests: readonly LogEntry[]
  /** `Range` of each GET for its bytes. */
  readonly ranges: readonly (string | undefined)[]
}

export class Trials {
  readonly upstream: UpstreamSimulator
  readonly mirror: Mirror
  readonly #clock: { now: number }
  readonly #contents = new Map<string, Content>()
  #count = 0

  private constructor(upstream: UpstreamSimulator, mirror: Mirror, clock: { now: number }) {
    this.upstream = upstream
    this.mirror = mirror
    this.#clock = clock
  }

  static async start(
    t: Test,
    options: { upstream?: UpstreamOptions; mirror?: MirrorOptions } = {},
  ): Promise<Trials> {
    const upstream = await simulate(t, options.upstream)
    const clock = { now: Date.now() }
    const mirror = await startMirror(t, upstream, {
      now: () => clock.now,
      ...options.mirror,
      cache: { prefetch: 'off', ...options.mirror?.cache },
      upstream: {
        timeouts: { connect: '300ms', headers: '300ms', idle: '300ms' },
        ...options.mirror?.upstream,
      },
    })
    return new Trials(upstream, mirror, clock)
  }

  /** Fails the test unless it ends as it should, and no harm is left behind. */
  async run(t: Test, trial: Trial): Promise<Seen> {
    const { upstream, mirror } = this
    const { repo, layer } = this.add(trial.size)
    const manifest = `${mirror.url}/v2/${repo}/manifests/1`
    const url = `${mirror.url}/v2/${repo}/blobs/${layer.digest}`
    if (trial.unknownSize !== true) t.equal((await pull(manifest)).status, 200)
    upstream.log.clear()
    const rules = (trial.faults ?? []).map(([matcher, behaviour]) => upstream.fault(matcher, behaviour))
    await trial.begin?.(upstream)
    const pulled = await Promise.all([pull(url), pull(url)])
    for (const it of pulled) this.#judge(t, it, layer, trial.ends)
    await settled(mirror)
    const requests = upstream.log.of({ ref: layer.digest })
    t.equal(upstream.log.authorizationSeenBy('cdn'), 0)
    const stored = this.#stored(layer)
    t.ok(
      trial.ends === 'served' ? stored?.equals(layer.bytes) : stored === undefined,
      'what is stored is right',
    )
    for (const rule of rules) rule.remove()
    await trial.end?.(upstream)
    await this.#recover(t, { manifest, url, layer })
    const gets = requests.filter(({ method, kind, status }) => method === 'GET' && isOfBytes(kind, status))
    return { layer, pulled, requests, ranges: gets.map(({ headers }) => headers.range) }
  }

  /** A layer that was never asked for. */
  add(size = 1_000_000): { repo: string; layer: Content } {
    this.#count += 1
    const repo = `library/trial-${this.#count}`
    const held = image({ layers: [size], seed: repo })
    this.upstream.addImage(repo, '1', held)
    for (const it of [...held.manifests, ...held.blobs]) this.#contents.set(it.digest, it)
    return { repo, layer: held.layers[0]! }
  }

  /** Of the metrics, with all their labels. */
  async sum(metric: string, label = ''): Promise<number> {
    const { body } = await pull(`${this.mirror.url}/metrics`)
    const lines = body
      .toString()
      .split('\n')
      .filter((line) => line.startsWith(metric) && line.includes(label))
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
  }

  /** Nothing on the disk is wrong, and nothing lies about there. */
  async close(t: Test): Promise<void> {
    await this.mirror.close()
    t.same(lookAtRest(this.mirror.root, this.#contents).faults, [])
    t.same(partialsIn(this.mirror.root), [])
    t.same(
      (['blob', 'cdn', 'hop', 'manifest'] as const).map((kind) => this.upstream.log.inFlight(kind)),
      [0, 0, 0, 0],
      'no connection is left',
    )
  }

  #judge(t: Test, pulled: Pulled, layer: Content, ends: Trial['ends']): void {
    t.equal(pulled.headers['content-encoding'], undefined)
    if (ends === 'served') {
      t.equal(pulled.status, 200)
      t.ok(isWhole(pulled, layer))
      t.equal(pulled.headers['docker-content-digest'], layer.digest)
    } else if (ends === 'broken') {
      t.ok(pulled.broken, 'it breaks off visibly')
      t.notOk(pulled.body.equals(layer.bytes))
    } else {
      t.equal(pulled.status, ends)
      t.match(JSON.parse(pulled.body.toString()), { errors: [{ code: String }] })
      t.ok(Number(pulled.headers['retry-after']) > 0)
    }
  }

  /** The next clients find everything as if nothing had been. */
  async #recover(t: Test, it: { manifest: string; url: string; layer: Content }): Promise<void> {
    this.#clock.now += LATER
    t.equal((await pull(`${this.mirror.url}/v2/`)).status, 200)
    t.equal((await pull(it.manifest)).status, 200)
    t.ok(isWhole(await pull(it.url), it.layer), 'afterwards it is served')
    await settled(this.mirror)
  }

  #stored({ digest }: Content): Buffer | undefined {
    const hex = digest.slice('sha256:'.length)
    const file = path.join(this.mirror.root, 'blobs', 'sha256', hex.slice(0, 2), hex)
    return existsSync(file) ? readFileSync(file) : undefined
  }
}

/** A redirect is not. */
function isOfBytes(kind: string, status: number): boolean {
  return kind === 'cdn' || (kind === 'blob' && (status < 300 || status >= 400))
}
