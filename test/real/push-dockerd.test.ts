/** What `docker push` and the commands around it do here, and what skopeo makes of the same refusals. */
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { image } from '../support/images.ts'
import { Entrepot } from '../support/process.ts'
import { missingAsRoot, shortDir } from '../support/programs.ts'
import { startUpstream, type UpstreamSimulator } from '../support/upstream.ts'
import { Dockerd } from './daemons.ts'
import { BUSYBOX, copyImage, GREETING, writeLayout } from './image.ts'

const needs = missingAsRoot('dockerd', 'docker', 'containerd', 'runc', 'skopeo', 'busybox', 'tar')

/** A simulated Docker Hub, entrepot before it, and a daemon with an image of three layers, `tool:1`. */
interface Office {
  readonly hub: UpstreamSimulator
  readonly entrepot: Entrepot
  /** What the names of images here begin with. */
  readonly host: string
  readonly dockerd: Dockerd
  /** An OCI layout of that image. */
  readonly layout: string
}

async function open(t: Test, config: Record<string, unknown> = {}): Promise<Office> {
  const hub = await startUpstream()
  t.teardown(() => hub.close())
  const entrepot = await Entrepot.start(t, {
    dir: shortDir(t),
    config: {
      local: ['team/**'],
      upstreams: { 'docker.io': { url: hub.url, default: true }, 'quay.io': { url: hub.url } },
      ...config,
    },
  })
  const dockerd = await Dockerd.start(t, entrepot.url)
  const dir = shortDir(t)
  const layout = join(dir, 'layout')
  await writeLayout(layout, [
    BUSYBOX,
    { 'etc/passwd': { file: '/etc/passwd' } },
    { 'bin/tar': { file: '/bin/tar' } },
  ])
  const archive = join(dir, 'tool.tar')
  t.equal((await copyImage(`oci:${layout}:1`, `docker-archive:${archive}:tool:1`)).code, 0)
  await dockerd.docker('load', '-q', '-i', archive)
  return { hub, entrepot, host: `127.0.0.1:${entrepot.port}`, dockerd, layout }
}

/** @returns what the push said, good or bad */
async function push({ dockerd, host }: Office, name: string): Promise<{ code: number | null; said: string }> {
  await dockerd.docker('tag', 'tool:1', `${host}/${name}`)
  const { code, stdout, stderr } = await dockerd.attempt('push', `${host}/${name}`)
  return { code, said: stdout + stderr }
}

function count(text: string, words: string): number {
  return text.split(words).length - 1
}

test('dockerd pushes, tags, mounts, and pulls again what it pushed', { skip: needs }, async (t) => {
  const office = await open(t)
  const { dockerd, host, entrepot } = office

  const first = await push(office, 'tool:1')
  t.equal(count(first.said, 'Pushed'), 3, 'three layers went up')
  const digest = /^1: digest: (sha256:[0-9a-f]{64}) size: \d+$/m.exec(first.said)?.[1] ?? ''
  t.ok(digest, first.said)

  const second = await push(office, 'tool:2')
  t.equal(count(second.said, 'Layer already exists'), 3, 'of another tag nothing went up')
  t.match(second.said, `2: digest: ${digest}`)

  const uploadsUntil = async (pushed: { repo: string; ref: string }): Promise<number> => {
    // Lines of the log come in their order, and a little behind the answers.
    const { repo, ref } = pushed
    const isPut = (line: Record<string, unknown>) => line['method'] === 'PUT' && line['route'] === 'manifest'
    await entrepot.program.ready(() =>
      entrepot.log.some((line) => isPut(line) && line['repo'] === repo && line['ref'] === ref),
    )
    return entrepot.log.filter(({ method }) => method === 'PATCH').length
  }
  const uploaded = await uploadsUntil({ repo: 'tool', ref: '2' })
  const other = await push(office, 'team/other:1')
  t.equal(count(other.said, 'Mounted from tool'), 3, 'nor to another repository')
  t.match(other.said, `1: digest: ${digest}`)
  const more = (await uploadsUntil({ repo: 'team/other', ref: '1' })) - uploaded
  t.equal(more, 1, 'but for the config, which dockerd never mounts')

  const found = await dockerd.docker('search', '--no-trunc', '--format', '{{.Name}}', `${host}/oo`)
  t.equal(found.trim(), 'tool', 'docker search finds what has that in its name')
  t.match(await dockerd.docker('search', `${host}/team`), /^team\/other\s/m)

  const all = await dockerd.docker('images', '-q')
  await dockerd.docker('rmi', '-f', ...new Set(all.trim().split('\n')))
  t.equal(await dockerd.docker('images', '-q'), '', 'it is gone from the daemon')
  for (const repository of ['tool', 'team/other']) {
    const pinned = `${host}/${repository}@${digest}`
    t.match(await dockerd.docker('pull', pinned), `Digest: ${digest}`)
    const said = await dockerd.docker('run', '--rm', '--network', 'none', pinned)
    t.equal(said.trim(), GREETING, 'it is the same image')
  }
  await dockerd.docker('pull', '-q', `${host}/tool:2`)
})

test('the first push of a new name, whatever the default upstream says of it', { skip: needs }, async (t) => {
  const office = await open(t)
  const { hub, host, layout } = office
  // Elsewhere, so that dockerd and skopeo know the layers and ask for them before they send them.
  t.equal((await push(office, 'team/seed:1')).code, 0)

  const moods: [string, () => unknown, () => unknown][] = [
    ['unknown', () => undefined, () => undefined],
    ...[401, 403].map((status): [string, () => unknown, () => unknown] => {
      let rule: Disposable | { remove(): void }
      return [
        `denied-${status}`,
        () => (rule = hub.fault({}, { status })),
        () => (rule as { remove(): void }).remove(),
      ]
    }),
    ['down', () => hub.stop(), () => hub.start()],
  ]
  for (const [mood, begin, end] of moods) {
    await begin()
    const byDocker = await push(office, `docker-${mood}:1`)
    t.equal(byDocker.code, 0, `docker, ${mood}: ${byDocker.said}`)
    const bySkopeo = await copyImage(`oci:${layout}:1`, `docker://${host}/office/skopeo-${mood}:1`)
    t.equal(bySkopeo.code, 0, `skopeo, ${mood}: ${bySkopeo.stderr}`)
    await end()
  }
})

test('who may not push a name is told why, and which name works', { skip: needs }, async (t) => {
  const office = await open(t, { push: { immutable: ['v*'] } })
  const { hub, host, layout, dockerd } = office
  hub.addImage('someone/theirs', '1', image({ layers: [100] }))
  t.equal((await copyImage(`docker://${host}/someone/theirs:1`, `dir:${shortDir(t)}`)).code, 0)
  t.equal((await push(office, 'team/app:v1')).code, 0)
  await push(office, 'team/app:latest')

  const refused: [string, string][] = [
    [
      'quay.io/team/app:1',
      'quay.io/ makes it a name of quay.io, which is mirrored here and cannot be pushed to; a name that matches team/** works',
    ],
    ['library/tool:1', 'push.deny reserves library/**; a name that matches team/** works'],
    [
      'someone/theirs:2',
      'someone/theirs was pulled from docker.io through here, and a push would hide it; a name that matches team/** works',
    ],
  ]
  for (const [name, why] of refused) {
    const byDocker = await push(office, name)
    t.not(byDocker.code, 0)
    t.match(byDocker.said, `denied: ${why}`, `docker push ${name}`)
    const bySkopeo = await copyImage(`oci:${layout}:1`, `docker://${host}/${name}`)
    t.not(bySkopeo.code, 0)
    t.match(bySkopeo.stderr, `denied: ${why}`, `skopeo copy to ${name}`)
  }

  // Another image under a tag that has been pushed, and must not move.
  const fixed = 'push.immutable (v*) keeps the tag v1 where it is; push under another tag'
  const bySkopeo = await copyImage(`oci:${layout}:1`, `docker://${host}/team/app:v1`)
  t.match(bySkopeo.stderr, `denied: ${fixed}`)
  t.equal((await push(office, 'team/app:v1')).code, 0, 'the same image may be pushed again')
  await dockerd.docker('pull', '-q', `${host}/team/app:v1`)
})

test('a server on the network says that only names of its own take pushes', { skip: needs }, async (t) => {
  const office = await open(t, { server: { host: '0.0.0.0', port: 0 }, push: { anonymous: true } })
  const refused = await push(office, 'tool:1')
  t.match(
    refused.said,
    'denied: this server is open to the network, where only names of `local` take pushes; a name that matches team/** works',
  )
  t.equal((await push(office, 'team/tool:1')).code, 0)
})
