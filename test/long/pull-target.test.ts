/**
 * What a day of pulls costs of Docker Hub's budget, with clients as they are.
 *
 * It counts each GET of a manifest, by tag or by digest, and no HEAD; so does this. An image for several platforms is
 * an index and a manifest, so one that is new costs two GETs; one whose index is new costs another for each platform
 * that is new and that somebody pulls.
 */
import { test, type Test } from 'tap'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import { eventually, simulate, startMirror } from '../support/app.ts'
import { buildkit } from '../support/clients/buildkit.ts'
import { run, type Client } from '../support/clients/client.ts'
import { containerd16, containerd23 } from '../support/clients/containerd.ts'
import { crane } from '../support/clients/crane.ts'
import { dockerd20, dockerd28 } from '../support/clients/dockerd.ts'
import { podman } from '../support/clients/podman.ts'
import { image, index, type Image } from '../support/images.ts'

const CLIENTS: readonly Client[] = [dockerd20, containerd16, podman, dockerd28, containerd23, crane, buildkit]
const LATEST = parseTag('latest')
const TAGS = 10
const DAY = 24 * 3_600_000
/** After such a part of the day, this tag moves. */
const MOVES: readonly (readonly [part: number, tag: number])[] = [
  [0.12, 3],
  [0.122, 7],
  [0.4, 3],
  [0.66, 0],
  [0.9, 9],
]

/** What Docker Hub counted in a day of pulls, all of which were right. */
async function day(t: Test, total: number, make: (seed: string) => Image): Promise<number> {
  const clock = { now: 1_700_000_000_000 }
  const now = (): number => clock.now
  const hub = await simulate(t, { now, rateLimit: { limit: 100, now } })
  const mirror = await startMirror(t, hub, { now })
  const repository = (tag: number): string => `library/app${tag}`
  const put = (tag: number, version: number): Image => {
    const made = make(`${tag} in version ${version}`)
    hub.addImage(repository(tag), 'latest', made)
    return made
  }
  const named = Array.from({ length: TAGS }, (_, tag) => put(tag, 0))
  for (let pulls = 0; pulls < total; pulls += 1) {
    for (const [part, tag] of MOVES) if (Math.floor(part * total) === pulls) named[tag] = put(tag, pulls)
    const tag = pulls % TAGS
    const { ending, error, shelf, share } = await run(CLIENTS[pulls % CLIENTS.length]!, {
      mirror: mirror.url,
      real: hub.url,
      repository: repository(tag),
      tag: 'latest',
    })
    const right = shelf.has(named[tag]!.manifest.digest) && shelf.rejected.length === 0
    if (ending !== 'pulled' || !right || share !== 1)
      t.fail(`pull ${pulls} of ${tag}`, { ending, error, share })
    // By our clock it is old at once: nobody may join what has not been written down yet.
    await eventually('it is written down', async () => {
      const name = parseRepositoryName(repository(tag))
      const record = await mirror.app.metadata.tags.get({ registry: 'docker.io', name }, LATEST)
      return record?.digest === named[tag]!.manifest.digest && record.checkedAt === clock.now
    })
    clock.now += DAY / total
  }
  t.equal(hub.log.count({ status: 429 }), 0)
  return hub.log.count({ kind: 'manifest', method: 'GET' })
}

test('500 pulls of 10 tags in a day cost one GET for each tag, and one for each that moved', async (t) => {
  t.ok((await day(t, 500, (seed) => image({ layers: [100], seed }))) <= TAGS + MOVES.length)
})

test('for several platforms it is one more for each platform that is pulled and new', async (t) => {
  const multi = (seed: string): Image =>
    index({
      images: {
        amd64: image({ layers: [100], seed }),
        arm64: image({ layers: [100], seed, architecture: 'arm64' }),
      },
    })
  t.ok((await day(t, 150, multi)) <= 2 * (TAGS + MOVES.length))
})
