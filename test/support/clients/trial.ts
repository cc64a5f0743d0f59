/**
 * Emulated clients before a mirror whose upstream has a bad day, with the real registry in good health beside it.
 *
 * One entrepot for each fault, and in it an upstream for each client: none meets what another left in the cache,
 * or in the mirror's memory of failures. Pieces of time are the mirror's own, shortened; pauses the client's.
 */
import { mkdtempSync } from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { startMirror } from '../app.ts'
import type { Fault } from '../faults/fault.ts'
import { attestedIndex, bundleOf, chart, fallbackIndex, fallbackTag, notationOf } from '../artifacts.ts'
import { image, type Image } from '../images.ts'
import { startUpstream, type UpstreamSimulator } from '../upstream.ts'
import { run, WrongBytesError, type Client, type Outcome } from './client.ts'
import { CanceledError } from './containerd-parallel.ts'
import { ConnectionError, describe } from './wire.ts'

/** The first is larger than what any fault lets through, and than a piece of a parallel download. */
const LAYERS = [640 * 1024, 70_000, 3_000]
const REPOSITORY = 'library/greeting'
const TAG = '1'

/** 15 s, 5 s and 30 s shortened: waiting for them proves nothing more. */
const BUDGETS = { budgetMs: 1_500, staleBudgetMs: 500 }
const TIMEOUTS = { connect: '500ms', headers: '1s', idle: '1s' }
/** Longer than the mirror's longest silence in a body: seven tries, and up to 11 s of pauses between them. */
const HANG_MS = 20_000
/**
 * The longest that a pull may take a client, with its own pauses. dockerd's layers: five retries, 75 s of pauses.
 * podman: four pulls, each with 30 s for an endpoint that is busy.
 */
const CLIENT_BUDGET_MS = 110_000

export interface Trial {
  readonly fault: Fault
  readonly client: Client
  readonly outcome: Outcome
  /** Sentences; none when all is well. */
  readonly problems: readonly string[]
}

export interface Ground {
  readonly real: UpstreamSimulator
  readonly dir: string
}

/** All of them at once. */
export async function tryFault(
  t: Test,
  { real, dir }: Ground,
  fault: Fault,
  clients: readonly Client[],
): Promise<Trial[]> {
  const stands = await Promise.all(
    clients.map(async (client, position) => {
      const held = imageOf(client)
      const repository = `${REPOSITORY}-${String(position)}`
      const upstream = await startUpstream(fault.upstream)
      hold(upstream, repository, held)
      hold(real, repository, held)
      return { client, held, repository, upstream, registry: `registry-${String(position)}.example` }
    }),
  )
  const upstreams = stands.map(({ registry, upstream }) => {
    return [registry, { url: upstream.url, timeouts: TIMEOUTS, ...fault.settings }] as const
  })
  const mirror = await startMirror(
    t,
    { url: '' },
    {
      root: mkdtempSync(path.join(dir, 'data-')),
      config: { upstreams: Object.fromEntries(upstreams) },
      ...BUDGETS,
    },
  )
  try {
    return await Promise.all(
      stands.map(async ({ client, held, repository, upstream, registry }) => {
        await fault.begin(upstream, { repo: repository, image: held })
        share(upstream, real, repository)
        const where = { mirror: mirror.url, real: real.url, registry, repository, tag: TAG }
        const outcome = await run(client, { ...where, hangMs: HANG_MS })
        return { fault, client, outcome, problems: problemsOf(fault, client, outcome) }
      }),
    )
  } finally {
    await mirror.close()
    await Promise.all(stands.map(({ upstream }) => upstream.close()))
  }
}

/** The image, and beside it what others ask for: its signatures, and a chart. */
function hold(registry: UpstreamSimulator, repository: string, held: Image): void {
  const referrers = [bundleOf(held.manifest), notationOf(held.manifest)]
  registry.addImage(repository, TAG, held)
  registry.addImage(repository, '1.0.0', chart('1.0.0', repository))
  for (const referrer of referrers) registry.addImage(repository, undefined, referrer)
  registry.holdings.addManifest(repository, fallbackTag(held.manifest), fallbackIndex(referrers))
}

/** They are the same registry on two days: what is new in one by digest is there in the other. */
function share(upstream: UpstreamSimulator, real: UpstreamSimulator, repository: string): void {
  const held = upstream.holdings.repositories.get(repository)
  for (const manifest of held?.manifests.values() ?? [])
    real.holdings.addManifest(repository, undefined, manifest)
  for (const blob of held?.blobs.values() ?? []) real.holdings.addBlob(repository, blob)
}

const images = new Map<Client, Image>()

/** Of each its own: blobs that one client brought would be there for the others. */
function imageOf(client: Client): Image {
  let made = images.get(client)
  if (made === undefined) {
    made = attestedIndex({ amd64: image({ layers: LAYERS, seed: client.name }) })
    images.set(client, made)
  }
  return made
}

function problemsOf(fault: Fault, client: Client, outcome: Outcome): string[] {
  const { ending, error, shelf, exchanges, tookMs } = outcome
  const problems: string[] = []
  if (ending === 'hung') problems.push(error?.message ?? 'hung')
  if (tookMs > CLIENT_BUDGET_MS) problems.push(`took ${seconds(tookMs)}`)
  for (const wrong of shelf.rejected) {
    if (wrong.from('mirror') === wrong.size) problems.push('wrong bytes, all of them from the mirror')
  }
  for (const exchange of exchanges) {
    if (exchange.endpoint !== 'mirror' || exchange.status < 400 || exchange.method === 'HEAD') continue
    if (exchange.headers['content-type'] !== 'application/json') {
      problems.push(`${describe(exchange)}: no OCI error`)
    }
  }
  if (ending === 'failed' && !mayFail(fault, client, outcome)) problems.push(error?.message ?? 'failed')
  return problems
}

/** What HEAD names there is nowhere, or no client takes it: nobody knows before the tag is chosen. */
const NOT_TO_BE_HAD = ['wrongDigestHeader', 'schema1Only']

function mayFail(fault: Fault, client: Client, { error, exchanges }: Outcome): boolean {
  // Nowhere else to go: what it was told is all that it can have.
  if (client.elsewhere !== 'everything' || NOT_TO_BE_HAD.includes(fault.name)) return true
  // A parallel download whose piece breaks off calls off the pieces before it, and gives up when it comes to one.
  if (error instanceof CanceledError) return exchanges.some(({ ended }) => ended === 'unexpected eof')
  // A piece of a blob that the mirror began and could not go on with is asked of no other host.
  const isGivenUp = exchanges.some((begun) => {
    const { endpoint, status, ended, bytes } = begun
    const wasLetThrough = endpoint === 'mirror' && status >= 200 && status < 300 && bytes > 0
    return wasLetThrough && ended !== 'whole' && error?.message === `${describe(begun)}: 503`
  })
  if (isGivenUp) return true
  // What the mirror had let through before it knew better stays in the way of a client that never starts again.
  return error instanceof WrongBytesError || error instanceof ConnectionError
}

/** Lines. */
export function tableOf(trials: readonly Trial[]): string[] {
  const clients = [...new Set(trials.map(({ client }) => client))]
  const faults = [...new Set(trials.map(({ fault }) => fault))]
  const rows = faults.map((fault) => [
    fault.name,
    ...clients.map((client) => cellOf(trials.find((it) => it.fault === fault && it.client === client))),
  ])
  const all = [['from us, and how long it took', ...clients.map(({ name }) => name)], ...rows]
  const widths = (all[0] ?? []).map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  return all.map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

function cellOf(trial: Trial | undefined): string {
  if (trial === undefined) return ''
  const { outcome, problems } = trial
  const { ending, shelf } = outcome
  const share = shelf.contents.size === 0 ? 'listed' : `${String(Math.floor(outcome.share * 100))} %`
  return `${ending === 'pulled' ? share : ending} ${seconds(outcome.tookMs)}${problems.length === 0 ? '' : ' !'}`
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}
