/** A real entrepot, killed again and again in the midst of its fills, on one folder. */
import { watch } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { eventually, pull, simulate, type Pulled } from '../support/app.ts'
import { lookAtRest, partialsIn, type AtRest } from '../support/at-rest.ts'
import { image, type Content, type Image } from '../support/images.ts'
import { randomOf } from '../support/power-loss-luck.ts'
import { commandLine, Entrepot } from '../support/process.ts'
import { Program } from '../support/programs.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

const KiB = 1024
const MiB = 1024 * KiB

const KILLS = 12
/** In these lives a layer comes that is large enough to be resumed: after 64 MiB it is synced for the first time. */
const LARGE_LAYERS = new Map([
  [2, 100 * MiB],
  [5, 130 * MiB],
  [8, 160 * MiB],
])

const NOTHING: AtRest = {
  blobs: new Set(),
  prefixes: new Map(),
  links: new Set(),
  tags: new Set(),
  faults: [],
}

interface Answer {
  readonly content: Content
  readonly repository: string
  /** Of a process that is killed there may be none. */
  readonly pulled: Pulled | undefined
}

function isWhole({ status, broken, body }: Pulled, { bytes }: Content): boolean {
  return status === 200 && broken === undefined && body.equals(bytes)
}

/** As a client does: the manifest by its tag, then all that it names; of each as much as comes. */
async function pullImage(url: string, repository: string, { manifest, blobs }: Image): Promise<Answer[]> {
  const base = `${url}/v2/${repository}`
  const get = async (what: string, content: Content): Promise<Answer> => ({
    content,
    repository,
    pulled: await pull(`${base}/${what}`).catch(() => undefined),
  })
  const answers = [await get('manifests/1', manifest)]
  if (answers[0]?.pulled?.status !== 200) return answers
  return [...answers, ...(await Promise.all(blobs.map((blob) => get(`blobs/${blob.digest}`, blob))))]
}

/** What those answers, and what they cost, have to do with what lay on the disk before the start. */
function judge(answers: readonly Answer[], before: AtRest, upstream: UpstreamSimulator): string[] {
  const faults: string[] = []
  for (const { content, repository, pulled } of answers) {
    const { digest, bytes, mediaType } = content
    if (pulled?.status === 200 && pulled.broken === undefined && !pulled.body.equals(bytes)) {
      faults.push(`a torn ${mediaType} was served whole`)
    }
    // What refers to it is another question than what it is.
    const asked = upstream.log.of(({ ref, kind }) => ref === digest && kind !== 'referrers')
    const [fetched] = asked.filter(({ method }) => method === 'GET')
    if (before.blobs.has(digest)) {
      if (fetched) faults.push(`a finished ${mediaType} was fetched again`)
      const linked = before.links.has(`docker.io/${repository} ${digest}`)
      if (linked && asked.length > 0) faults.push(`a linked ${mediaType} was asked for`)
      if (linked && pulled && pulled.cache !== 'hit')
        faults.push(`a linked ${mediaType} was a ${pulled.cache}`)
    } else if (fetched) {
      const from = Number(/^bytes=(\d+)-/.exec(fetched.headers.range ?? '')?.[1] ?? 0)
      const prefix = before.prefixes.get(digest) ?? 0
      if (from !== Math.min(prefix, bytes.length - 1)) faults.push(`of ${prefix} bytes it went on at ${from}`)
    }
  }
  return faults
}

/** Resolves when a sidecar has got its name, or with the signal. */
function sidecarIn(root: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const watcher = watch(path.join(root, 'ingest'), { signal }, (_event, name) => {
      if (name?.endsWith('.json') === true) watcher.close()
    })
    watcher.on('close', resolve)
  })
}

test('fifty fills, killed wherever they are: nothing torn, finished ones are hits, half ones go on', async (t) => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
  t.comment(`SEED=${seed}`)
  t.setTimeout(600_000)
  const random = randomOf(seed)
  const upstream = await simulate(t, { bytesPerSecond: 30 * MiB })
  const dir = t.testdir()
  const root = path.join(dir, 'data')
  // However long the lives take: a tag that has grown old is another test's.
  const config = { cache: { tagTtl: '1h' }, upstreams: { 'docker.io': { url: upstream.url, default: true } } }
  const start = (t: Test): Promise<Entrepot> => Entrepot.start(t, { dir, config })
  const images = new Map<string, Image>()
  const contents = new Map<string, Content>()
  let before = NOTHING
  let fills = 0
  let resumed = 0

  for (let life = 0; life < KILLS; life++) {
    const large = LARGE_LAYERS.get(life)
    const sizes = [random() * 200 * KiB, random() * 2 * MiB, random() * 6 * MiB].map(Math.ceil)
    const added = image({ layers: large === undefined ? sizes : [...sizes, large], seed: `${seed}/${life}` })
    upstream.addImage(`library/image-${life}`, '1', added)
    images.set(`library/image-${life}`, added)
    for (const content of [added.manifest, ...added.blobs]) contents.set(content.digest, content)
    const rule = upstream.fault(
      { kind: 'blob', when: ({ ref }) => (contents.get(ref ?? '')?.bytes.length ?? 0) > 64 * MiB },
      { bytesPerSecond: 150 * MiB },
    )

    if (life % 4 === 3) {
      const { command, args, env } = commandLine({ dir, config })
      const starting = new Program(t, command, args, env)
      await sleep(random() * 700)
      starting.kill('SIGKILL')
      await starting.exited
      t.strictSame(lookAtRest(root, contents, before.blobs), before, `a start was killed before life ${life}`)
    }
    const entrepot = await start(t)
    upstream.log.clear()
    const over = new AbortController()
    const sidecar = sidecarIn(root, AbortSignal.any([over.signal, AbortSignal.timeout(20_000)]))
    // What the last lives left unfinished goes on, beside the new one.
    const wanted = [...images].filter(([, { manifest, blobs }]) =>
      [manifest, ...blobs].some(({ digest }) => !before.blobs.has(digest) || random() < 0.1),
    )
    const pulls = wanted.map(([repository, it]) => pullImage(entrepot.url, repository, it))
    await upstream.log.until((log) => log.count({ kind: 'blob', method: 'GET' }) > 0)
    if (large !== undefined) await sidecar
    await sleep(random() * 300)
    entrepot.program.kill('SIGKILL')
    await entrepot.program.exited
    over.abort()
    rule.remove()

    const answers = (await Promise.all(pulls)).flat()
    fills += new Set(upstream.log.of({ kind: 'blob', method: 'GET' }).map(({ ref }) => ref)).size
    resumed += upstream.log.count(({ kind, headers }) => kind === 'blob' && headers.range !== undefined)
    const after = lookAtRest(root, contents, before.blobs)
    const lost = [...before.blobs].filter((digest) => !after.blobs.has(digest))
    t.strictSame([...judge(answers, before, upstream), ...after.faults, ...lost], [], `after kill ${life}`)
    before = after
  }
  t.ok(fills >= 50, `${fills} fills`)
  t.ok(resumed > 0, `${resumed} went on`)

  const entrepot = await start(t)
  upstream.log.clear()
  for (const [repository, it] of images) {
    const answers = await pullImage(entrepot.url, repository, it)
    t.ok(
      answers.length > it.blobs.length && answers.every(({ pulled, content }) => isWhole(pulled!, content)),
      `${repository} arrives`,
    )
    t.strictSame(judge(answers, before, upstream), [])
  }
  await eventually(
    'all fills have settled',
    async () => (await entrepot.metric('entrepot_fills_in_flight')) === 0,
  )
  t.strictSame(partialsIn(root), [], 'nothing is left half-way')
  await upstream.stop()
  for (const [repository, it] of images) {
    const answers = await pullImage(entrepot.url, repository, it)
    t.ok(
      answers.length > it.blobs.length &&
        answers.every(({ pulled, content }) => isWhole(pulled!, content) && pulled?.cache === 'hit'),
      `${repository} needs no upstream`,
    )
  }
  await entrepot.program.stop()
  t.strictSame(lookAtRest(root, contents).faults, [])
})
