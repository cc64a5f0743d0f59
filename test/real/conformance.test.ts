/**
 * The official conformance suite, against what is pushed here and through the mirror.
 *
 * The pinned version has no tests of cancelled uploads, of other digest algorithms and digest headers, and of the
 * tag parameters of a manifest PUT: those are in test/http/uploads.test.ts and test/registry/pushes.test.ts.
 */
import { test, type Test } from 'tap'
import { image, type Content } from '../support/images.ts'
import { Entrepot } from '../support/process.ts'
import { missing, shortDir } from '../support/programs.ts'
import { pushImage } from '../support/push.ts'
import { buildSuite, runSuite, type SuiteResult } from './conformance.ts'
import { DockerRegistry } from './daemons.ts'

const WORKFLOWS = {
  OCI_TEST_PULL: '1',
  OCI_TEST_PUSH: '1',
  OCI_TEST_CONTENT_DISCOVERY: '1',
  OCI_TEST_CONTENT_MANAGEMENT: '1',
}

/** Of two tests that exclude each other the suite runs one: the registry is filled by it, or was before. */
const OF_FULL_REGISTRIES = [
  'Pull / Setup / Get tag name from environment',
  'Content Discovery / Setup / Populate registry with test tags (no push)',
]

/** What a registry is held to that does not mount what it could. */
const OF_REFUSED_MOUNTS =
  'Push / Cross-Repository Blob Mount / Cross-mounting of nonexistent blob should yield session id'

/** A digest alone opens nothing here: a mount that says no `from` is 202. The other test is for who mounts it. */
const MOUNT_WITHOUT_FROM = 'Push / Cross-Repository Blob Mount / Cross-mounting without from, and'
const OF_UNASKED_MOUNTS = `${MOUNT_WITHOUT_FROM} automatic content discovery enabled should return a 201`
const OF_ASKED_MOUNTS = `${MOUNT_WITHOUT_FROM} automatic content discovery disabled should return a 202`

/** The suite wants five referrers, two of them of this type. */
const ARTIFACT_TYPES = [
  'application/vnd.nhl.peanut.butter.bagel',
  'application/vnd.nhl.peanut.butter.bagel',
  'application/vnd.nba.strawberry.jam.croissant',
  'application/vnd.nba.strawberry.jam.croissant',
  'application/vnd.food.stand',
]
const TAGS = ['test0', 'test1', 'test2', 'test3']

const subject = image({ layers: [100_000, 5_000], seed: 'conformance' })
const referrers = ARTIFACT_TYPES.map((artifactType, nth) =>
  image({ layers: [100], seed: `referrer ${nth}`, subject: subject.manifest, artifactType }),
)

let suite: Promise<string> | undefined
/** Once for all tests. */
const built = (): Promise<string> => (suite ??= buildSuite())

test('the suite has nothing to say against pushes', { skip: missing('go') }, async (t) => {
  const program = await built()
  const entrepot = await Entrepot.start(t, {
    dir: shortDir(t),
    config: { local: ['team/**'], upstreams: { 'docker.io': { url: 'http://127.0.0.1:9', default: true } } },
  })
  const runs: [string, Record<string, string>, string[]][] = [
    [
      'manifests are deleted first',
      { OCI_DELETE_MANIFEST_BEFORE_BLOBS: '1', OCI_AUTOMATIC_CROSSMOUNT: '0' },
      [OF_UNASKED_MOUNTS],
    ],
    [
      'blobs are deleted first, in names under no glob',
      {
        OCI_DELETE_MANIFEST_BEFORE_BLOBS: '0',
        OCI_NAMESPACE: 'conformance',
        OCI_CROSSMOUNT_NAMESPACE: 'conformance-of/mounts',
      },
      [OF_UNASKED_MOUNTS, OF_ASKED_MOUNTS],
    ],
  ]
  for (const [title, settings, also] of runs) {
    const result = await runSuite(t, program, {
      ...WORKFLOWS,
      OCI_ROOT_URL: entrepot.url,
      OCI_NAMESPACE: 'team/conformance/app',
      OCI_CROSSMOUNT_NAMESPACE: 'team/conformance/other',
      ...settings,
    })
    nothingFailed(t, result, title)
    t.strictSame(
      result.skipped.toSorted(),
      [...OF_FULL_REGISTRIES, OF_REFUSED_MOUNTS, ...also].toSorted(),
      `${title}: it left out what it does not ask of such a registry, and nothing else`,
    )
  }
})

test('nor against what is pulled through the mirror, cold and hot', { skip: missing('go') }, async (t) => {
  const program = await built()

  await t.test('of entrepot', async (t) => {
    const upstream = await Entrepot.start(t, {
      dir: shortDir(t),
      config: { local: ['team/**'], upstreams: { 'docker.io': { url: 'http://127.0.0.1:9' } } },
    })
    await fill(`${upstream.url}/v2/team/app`)
    await throughTheMirror(t, program, upstream.url)
  })

  await t.test("of Debian's registry", { skip: missing('docker-registry') }, async (t) => {
    const upstream = await DockerRegistry.start(t)
    await fill(`http://${upstream.address}/v2/team/app`)
    // It has no referrers API, and a mirror of it says so: clients go on to the referrers tag then.
    await throughTheMirror(t, program, `http://${upstream.address}`, ['listing references'])
  })
})

async function fill(repository: string): Promise<void> {
  for (const tag of TAGS) expect201(await pushImage(repository, subject, tag))
  for (const referrer of referrers) expect201(await pushImage(repository, referrer))
}

async function throughTheMirror(
  t: Test,
  program: string,
  upstream: string,
  without: readonly string[] = [],
): Promise<void> {
  const entrepot = await Entrepot.start(t, {
    dir: shortDir(t),
    config: { cache: { tagTtl: 0 }, upstreams: { 'quay.io': { url: upstream } } },
  })
  const settings = {
    OCI_ROOT_URL: entrepot.url,
    OCI_NAMESPACE: 'quay.io/team/app',
    OCI_TEST_PULL: '1',
    OCI_TEST_CONTENT_DISCOVERY: '1',
    OCI_TAG_NAME: TAGS[0] ?? '',
    OCI_MANIFEST_DIGEST: subject.manifest.digest,
    OCI_BLOB_DIGEST: (subject.layers[0] as Content).digest,
    OCI_TAG_LIST: TAGS.join(','),
  }
  for (const state of ['cold', 'hot']) {
    const before = await entrepot.metric('entrepot_pulls_total', { cache: 'miss' })
    const result = await runSuite(t, program, settings, without)
    nothingFailed(t, result, state)
    const inPlay = result.specs.filter(({ title }) => /^(Pull|Content Discovery) \//.test(title))
    const skipped = inPlay.filter((it) => it.state === 'skipped').map(({ title }) => title)
    const unexpected = skipped.filter(
      (title) => !/Setup|Teardown/.test(title) && !without.some((words) => title.includes(words)),
    )
    t.strictSame(unexpected, [], `${state}: it left out only what fills and empties a registry`)
    for (const title of OF_FULL_REGISTRIES) t.notOk(skipped.includes(title), `${state}: ${title}`)
    const misses = (await entrepot.metric('entrepot_pulls_total', { cache: 'miss' })) - before
    if (state === 'hot') t.equal(misses, 0, 'hot: nothing was fetched')
    else t.ok(misses > 0, 'cold: what was asked for was fetched')
  }
}

function nothingFailed(t: Test, { code, failed, specs, output }: SuiteResult, title: string): void {
  const passed = specs.filter(({ state }) => state === 'passed').length
  t.comment(`${title}: ${passed} of ${specs.length} passed`)
  t.ok(passed > 0, `${title}: it ran`)
  const why = specs.filter((it) => failed.includes(it.title)).map((it) => `${it.title}: ${it.failure}`)
  t.strictSame(why, [], `${title}: no failure`)
  t.equal(code, 0, `${title}: ${code === 0 ? 'and says so' : output.slice(-3000)}`)
}

function expect201({ status, body }: { status: number; body: Buffer }): void {
  if (status !== 201) throw new Error(`a push was answered with ${status}: ${body.toString()}`)
}
