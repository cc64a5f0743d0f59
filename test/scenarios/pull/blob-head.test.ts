/** What HEAD costs upstream, and what it answers when upstream cannot: blobs, and names that may be new. */
import { test, type Test } from 'tap'
import { parseRepositoryName } from '../../../src/oci/reference.ts'
import { eventually, settled } from '../../support/app.ts'
import { image, index, type Image } from '../../support/images.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'
import type { Behaviour } from '../../support/upstream-rules.ts'

const ALONE = { cache: { prefetch: 'off' } }
/** For whom upstream keeps waiting; a machine that is busy must not pass for that. */
const IMPATIENT = { ...ALONE, staleBudgetMs: 300, budgetMs: 600 }

test('a cold blob that a manifest of its repository names is answered without asking', async (t) => {
  const { hub, head, get } = await startTwoUpstreams(t, ALONE)
  const app = image({ layers: [300_000, 10], seed: 'app' })
  hub.addImage('library/app', '1', app)
  t.equal((await get('library/app/manifests/1')).status, 200)
  const before = hub.log.count()
  for (const round of ['up', 'down']) {
    for (const blob of app.blobs) {
      const answer = await head(`library/app/blobs/${blob.digest}`)
      t.equal(answer.status, 200, round)
      t.match(answer.headers, {
        'content-length': String(blob.bytes.length),
        'docker-content-digest': blob.digest,
        'content-type': 'application/octet-stream',
      })
    }
    t.equal(hub.log.count(), before)
    await hub.stop()
  }
})

test('a cold manifest that an index of its repository names is answered without asking', async (t) => {
  const { hub, head, get } = await startTwoUpstreams(t, ALONE)
  const child = image({ seed: 'child' })
  const both = index({ images: { amd64: child } })
  hub.addImage('library/app', '1', both)
  await get('library/app/manifests/1')
  const before = hub.log.count()
  const answer = await head(`library/app/manifests/${child.manifest.digest}`)
  t.match(answer.headers, {
    'content-length': String(child.manifest.bytes.length),
    'docker-content-digest': child.manifest.digest,
    'content-type': child.manifest.mediaType,
  })
  t.equal(hub.log.count(), before)
  // It is a manifest, so it is no blob, and what it names is nothing yet.
  t.equal((await head(`library/app/blobs/${child.manifest.digest}`)).status, 404)
  t.equal((await head(`library/app/blobs/${child.layers[0]!.digest}`)).status, 200)
  t.equal(hub.log.count({ kind: 'blob', method: 'HEAD' }), 1)
})

test('a config or layer is no manifest, whatever is known of it', async (t) => {
  const { hub, head, get, mirror } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  const app = image({ layers: [1000], seed: 'app' })
  hub.addImage('library/app', '1', app)
  await get('library/app/manifests/1')
  const ask = async (round: string): Promise<void> => {
    for (const { digest } of [app.config, app.layers[0]!]) {
      t.equal((await head(`library/app/manifests/${digest}`)).status, 404, round)
      const answer = await get(`library/app/manifests/${digest}`)
      t.equal(answer.status, 404, round)
      t.equal(codeOf(answer), 'MANIFEST_UNKNOWN')
    }
  }
  await ask('cold')
  for (const { digest } of app.blobs) t.equal((await get(`library/app/blobs/${digest}`)).status, 200)
  await settled(mirror)
  await ask('hot')
})

test('a layer that registries do not hold is asked for', async (t) => {
  const { hub, head, get } = await startTwoUpstreams(t, ALONE)
  const app = image({
    seed: 'windows',
    layers: [
      { size: 10, seed: 'urls', urls: ['https://elsewhere.example/layer'] },
      {
        size: 11,
        seed: 'docker',
        mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
      },
      {
        size: 12,
        seed: 'oci',
        mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
      },
      13,
    ],
  })
  hub.addImage('library/app', '1', app)
  for (const { digest } of app.layers.slice(0, 3)) hub.deleteBlob('library/app', digest)
  await get('library/app/manifests/1')
  for (const { digest } of app.layers.slice(0, 3)) {
    t.equal((await head(`library/app/blobs/${digest}`)).status, 404)
    t.equal(hub.log.count({ kind: 'blob', method: 'HEAD', ref: digest }), 1)
  }
  t.equal((await head(`library/app/blobs/${app.layers[3]!.digest}`)).status, 200)
  t.equal(hub.log.count({ kind: 'blob', method: 'HEAD' }), 3)

  // Some registries hold them all the same.
  hub.addBlob('library/app', app.layers[0]!)
  const held = await head(`library/app/blobs/${app.layers[0]!.digest}`)
  t.equal(held.status, 200)
  t.equal(held.headers['content-length'], '10')
})

test('a blob that nothing names is asked for by HEAD, and a no is confirmed by GET', async (t) => {
  const { hub, head } = await startTwoUpstreams(t, ALONE)
  const app = image({ layers: [5000], seed: 'app' })
  hub.addImage('library/app', '1', app)
  const known = await head(`library/app/blobs/${app.layers[0]!.digest}`)
  t.equal(known.status, 200)
  t.equal(known.headers['content-length'], '5000')
  const unknown = await head(`library/app/blobs/${image({ seed: 'other' }).layers[0]!.digest}`)
  t.equal(unknown.status, 404)
  t.same(
    hub.log.of('blob').map(({ method }) => method),
    ['HEAD', 'HEAD', 'GET'],
  )
})

const OUTAGES: Record<string, { behaviour?: Behaviour; honest: number }> = {
  'is down': { honest: 503 },
  'answers 401': { behaviour: { status: 401 }, honest: 403 },
  'answers 403': { behaviour: { status: 403 }, honest: 403 },
  'answers 429': { behaviour: { status: 429 }, honest: 503 },
  'answers 500': { behaviour: { status: 500, body: 'html' }, honest: 503 },
  hangs: { behaviour: { hang: 'headers' }, honest: 503 },
}

const fresh = image({ layers: [200], seed: 'about to be pushed' })

/** What clients ask before they push. */
function existenceChecks(name: string, query = ''): string[] {
  return [
    `${name}/manifests/1${query}`,
    `${name}/manifests/${fresh.manifest.digest}${query}`,
    `${name}/blobs/${fresh.layers[0]!.digest}${query}`,
  ]
}

const isOfBlob = (path: string): boolean => path.includes('/blobs/')

for (const [what, { behaviour, honest }] of Object.entries(OUTAGES)) {
  test(`upstream ${what}: a HEAD in a name that may be a first push is 404`, async (t) => {
    const hangs = behaviour?.hang !== undefined
    const { hub, quay, head, get } = await startTwoUpstreams(t, hangs ? IMPATIENT : ALONE)
    for (const it of [hub, quay]) {
      if (behaviour === undefined) await it.stop()
      else it.fault({ kind: ['manifest', 'blob', 'ping'] }, behaviour)
    }
    const answers = await Promise.all(['new', 'team/new'].flatMap((name) => existenceChecks(name)).map(head))
    t.same(new Set(answers.map(({ status }) => status)), new Set([404]))

    // A pull is told the truth, and so is a HEAD in a name that takes no push; but who asks for a blob before its
    // manifest is about to push it, and is told at once that it will not be taken.
    const owned = [
      ...existenceChecks('docker.io/new'),
      ...existenceChecks('quay.io/team/new'),
      ...existenceChecks('team/new', '?ns=docker.io'),
      ...existenceChecks('library/new'),
    ]
    const pulls = existenceChecks('new')
    const told = await Promise.all([...owned.map(head), ...pulls.map((path) => get(path))])
    t.same(
      told.map(({ status }) => status),
      [...owned.map((path) => (isOfBlob(path) ? 403 : honest)), ...pulls.map(() => honest)],
    )
  })
}

async function outage(
  t: Test,
  serve: (app: Image, names: Awaited<ReturnType<typeof startTwoUpstreams>>) => Promise<void>,
) {
  const two = await startTwoUpstreams(t, ALONE)
  const app = image({ layers: [5000], seed: 'served' })
  two.hub.addImage('library/app', '1', app)
  await serve(app, two)
  const denial = two.hub.fault({ kind: ['manifest', 'blob'] }, { status: 403 })
  for (const path of existenceChecks('app')) {
    if (path.endsWith('manifests/1')) continue
    t.equal((await two.head(path)).status, 403, path)
  }
  t.equal((await two.head('app/manifests/2')).status, 403)
  t.equal((await two.head('new/manifests/2')).status, 404, 'of another name nothing was served')
  denial.remove()
  await two.hub.stop()
  for (const path of [...existenceChecks('app').slice(1), 'app/manifests/2']) {
    t.equal((await two.head(path)).status, isOfBlob(path) ? 403 : 503, path)
  }
}

test('once a manifest of the name was served, a HEAD gets an honest error', async (t) => {
  await outage(t, async (_, { get }) => {
    await get('app/manifests/1')
    await eventually('it is kept', async () => (await get('app/manifests/1')).cache === 'hit')
  })
})

test('once a blob of the name was served, a HEAD gets an honest error', async (t) => {
  await outage(t, async (app, { get, mirror }) => {
    t.equal((await get(`app/blobs/${app.layers[0]!.digest}`)).status, 200)
    await settled(mirror)
  })
})

test('once upstream said that it has the name, a HEAD gets an honest error', async (t) => {
  await outage(t, async (_, { head, mirror }) => {
    t.equal((await head('app/manifests/1')).status, 200)
    const key = { registry: 'docker.io', name: parseRepositoryName('library/app') }
    await eventually('it is kept', async () => {
      const known = await mirror.app.metadata.repositories.get(key)
      return known?.servedAt !== undefined
    })
  })
})
