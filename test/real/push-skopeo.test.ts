/** Images and artifacts that skopeo brings, takes home again, and deletes. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import { content, descriptorOf, type Content } from '../support/images.ts'
import { commandLine, Entrepot } from '../support/process.ts'
import { missing, run, shortDir, succeed } from '../support/programs.ts'
import { pushBlob, pushManifest, send } from '../support/push.ts'
import { BUSYBOX, copyImage, writeLayout } from './image.ts'

const needs = missing('skopeo', 'busybox', 'tar', 'du')

const CONFIG = {
  local: ['team/**'],
  upstreams: { 'docker.io': { url: 'http://127.0.0.1:9', default: true } },
  // Nothing that was deleted is kept for longer than it takes to see it.
  push: { gcGrace: 0 },
}

async function start(t: Test): Promise<{ dir: string; entrepot: Entrepot; host: string }> {
  const dir = shortDir(t)
  const entrepot = await Entrepot.start(t, { dir, config: CONFIG })
  return { dir, entrepot, host: `127.0.0.1:${entrepot.port}` }
}

/** Name -> bytes of every blob of an OCI layout, manifests among them. */
function blobsOf(layout: string): Record<string, Buffer> {
  const folder = join(layout, 'blobs/sha256')
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((name) => [name, readFileSync(join(folder, name))]),
  )
}

async function copied(t: Test, from: string, to: string): Promise<void> {
  const { code, stderr } = await copyImage(from, to)
  t.equal(code, 0, `skopeo copy ${from} ${to}: ${stderr}`)
}

async function diskUsage(folder: string): Promise<number> {
  return Number.parseInt(await succeed('du', ['-sk', folder]), 10) * 1024
}

test('an OCI layout comes home as it went, to the byte', { skip: needs }, async (t) => {
  const { dir, host } = await start(t)
  const layout = join(dir, 'layout')
  await writeLayout(layout, [BUSYBOX, { 'bin/tar': { file: '/bin/tar' } }])
  // The manifest with spaces of its own: whoever writes it anew changes its digest.
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
    manifests: { digest: string; size: number }[]
  }
  const [entry] = index.manifests
  if (entry === undefined) throw new Error('a layout without an image')
  const written = readFileSync(join(layout, 'blobs/sha256', entry.digest.slice('sha256:'.length)), 'utf8')
  const spaced = content(
    MEDIA_TYPES.ociManifest,
    Buffer.from(JSON.stringify(JSON.parse(written), undefined, 5)),
  )
  writeFileSync(join(layout, 'blobs/sha256', spaced.digest.slice('sha256:'.length)), spaced.bytes)
  Object.assign(entry, { digest: spaced.digest, size: spaced.bytes.length })
  writeFileSync(join(layout, 'index.json'), JSON.stringify(index))

  await copied(t, `oci:${layout}:1`, `docker://${host}/team/app:1`)
  const home = join(dir, 'home')
  await copied(t, `docker://${host}/team/app:1`, `oci:${home}:1`)
  const [back, sent] = [blobsOf(home), blobsOf(layout)]
  t.ok(back[spaced.digest.slice('sha256:'.length)]?.equals(spaced.bytes), 'the manifest')
  for (const [name, bytes] of Object.entries(back)) t.ok(sent[name]?.equals(bytes), name)
  t.equal(Object.keys(back).length, 4, 'a manifest, a config and two layers')

  const tags = await succeed('skopeo', ['list-tags', '--tls-verify=false', `docker://${host}/team/app`])
  t.strictSame((JSON.parse(tags) as { Tags: string[] }).Tags, ['1'])
})

test('what skopeo deletes is gone from the disk after a collection', { skip: needs }, async (t) => {
  const { dir, host } = await start(t)
  await writeLayout(join(dir, 'one'), [BUSYBOX, { 'bin/tar': { file: '/bin/tar' } }])
  const all = await writeLayout(join(dir, 'two'), [BUSYBOX, { 'opt/node': { file: process.execPath } }])
  const own = all - (await writeLayout(join(dir, 'shared'), [BUSYBOX]))
  t.ok(own > 50_000_000, `the second image has ${own} bytes of its own`)
  await copied(t, `oci:${join(dir, 'one')}:1`, `docker://${host}/team/app:1`)
  await copied(t, `oci:${join(dir, 'two')}:1`, `docker://${host}/team/app:2`)
  await copied(t, `docker://${host}/team/app:1`, `docker://${host}/team/other:1`)

  const gc = async (): Promise<string> => {
    const { command, args, env } = commandLine({ dir, config: CONFIG })
    const [start = '', ...rest] = args
    return succeed(command, [start, 'gc', ...rest], { env })
  }
  const blobs = join(dir, 'data/blobs')
  await gc()
  const full = await diskUsage(blobs)
  const deleted = await run('skopeo', ['delete', '--tls-verify=false', `docker://${host}/team/app:2`])
  t.equal(deleted.code, 0, deleted.stderr)
  t.equal(await diskUsage(blobs), full, 'a deletion frees nothing yet')
  const told = await gc()
  const less = full - (await diskUsage(blobs))
  t.ok(less >= own, `${less} bytes less, of ${own}: ${told}`)
  t.ok(less <= own * 1.02 + 100_000, 'and no more than that')

  t.not((await copyImage(`docker://${host}/team/app:2`, `dir:${join(dir, 'gone')}`)).code, 0)
  await copied(t, `docker://${host}/team/app:1`, `dir:${join(dir, 'kept')}`)
  await copied(t, `docker://${host}/team/other:1`, `dir:${join(dir, 'other')}`)
})

test('skopeo is told why schema 1 is not taken, and what is', { skip: needs }, async (t) => {
  const { dir, host, entrepot } = await start(t)
  const layout = join(dir, 'layout')
  await writeLayout(layout, [BUSYBOX])
  const insecure = ['--insecure-policy', 'copy', '-q', '--dest-tls-verify=false']
  const to = `docker://${host}/team/app:1`
  const refused = await run('skopeo', [...insecure, '--format', 'v2s1', `oci:${layout}:1`, to])
  t.not(refused.code, 0)
  t.match(refused.stderr, /schema 1 are not taken.* schema 2/)
  t.equal((await send(`${entrepot.url}/v2/team/app/manifests/1`, 'GET')).status, 404)
  const taken = await run('skopeo', [...insecure, '--format', 'v2s2', `oci:${layout}:1`, to])
  t.equal(taken.code, 0, taken.stderr)
})

test('a name that takes no push is no reason to wait for its upstream', { skip: needs }, async (t) => {
  const { dir, host, entrepot } = await start(t)
  const layout = join(dir, 'layout')
  await writeLayout(layout, [BUSYBOX])
  for (const name of ['docker.io/team/app', 'library/tool']) {
    const { code, stderr } = await copyImage(`oci:${layout}:1`, `docker://${host}/${name}:1`)
    t.not(code, 0)
    t.match(stderr, '403 (Forbidden)', 'it asks for a blob first, and an answer to HEAD has no words')
  }
  await entrepot.program.stop()
  t.same(
    entrepot.log.filter(({ status }) => Number(status) >= 500),
    [],
    'and nothing that it would ask again for',
  )
})

const EMPTY = content('application/vnd.oci.empty.v1+json', Buffer.from('{}'))
const CHART = {
  config: content(
    'application/vnd.cncf.helm.config.v1+json',
    Buffer.from('{"name":"quay","version":"0.1.0"}'),
  ),
  layer: content('application/vnd.cncf.helm.chart.content.v1.tar+gzip', Buffer.from('a chart, as it were')),
}
const SIGNATURE = 'application/vnd.dev.cosign.artifact.sig.v1+json'
const SBOM = 'application/spdx+json'

function manifestOf(members: Record<string, unknown>): Content {
  const manifest = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociManifest, ...members }
  return content(MEDIA_TYPES.ociManifest, Buffer.from(JSON.stringify(manifest)))
}

test('a chart and its signatures are found where they belong', { skip: needs }, async (t) => {
  const { dir, entrepot, host } = await start(t)
  const repository = `${entrepot.url}/v2/team/charts/quay`
  const chart = manifestOf({ config: descriptorOf(CHART.config), layers: [descriptorOf(CHART.layer)] })
  for (const blob of [CHART.config, CHART.layer, EMPTY]) {
    t.equal((await pushBlob(repository, blob)).status, 201)
  }
  t.equal((await pushManifest(repository, chart, '0.1.0')).status, 201)

  // As cosign and oras do it: the artifact names its subject, and is reached through it.
  const statements: [string, Content][] = []
  for (const artifactType of [SIGNATURE, SIGNATURE, SBOM]) {
    const statement = content(artifactType, Buffer.from(`statement ${statements.length}`))
    t.equal((await pushBlob(repository, statement)).status, 201)
    const manifest = manifestOf({
      artifactType,
      config: descriptorOf(EMPTY),
      layers: [descriptorOf(statement)],
      subject: descriptorOf(chart),
      annotations: { 'org.opencontainers.image.created': '2026-01-01T00:00:00Z' },
    })
    const answer = await pushManifest(repository, manifest)
    t.equal(answer.status, 201)
    t.equal(answer.headers['oci-subject'], chart.digest, 'no tag of its own need be kept')
    statements.push([artifactType, manifest])
  }

  const listed = async (query = ''): Promise<unknown> => {
    const { status, headers, body } = await send(`${repository}/referrers/${chart.digest}${query}`, 'GET')
    t.equal(status, 200)
    t.equal(headers['content-type'], MEDIA_TYPES.ociIndex)
    if (query !== '') t.equal(headers['oci-filters-applied'], 'artifactType')
    return (JSON.parse(body.toString()) as { manifests: unknown[] }).manifests
  }
  const expected = (wanted: readonly [string, Content][]): unknown[] =>
    wanted.map(([artifactType, manifest]) => ({
      ...descriptorOf(manifest),
      artifactType,
      annotations: { 'org.opencontainers.image.created': '2026-01-01T00:00:00Z' },
    }))
  t.same(sorted(await listed()), sorted(expected(statements)))
  const filter = `?artifactType=${encodeURIComponent(SIGNATURE)}`
  t.same(sorted(await listed(filter)), sorted(expected(statements.slice(0, 2))))

  // skopeo takes the chart for what it is: an image of unknown layers.
  await copied(t, `docker://${host}/team/charts/quay:0.1.0`, `oci:${join(dir, 'chart')}:0.1.0`)
  t.ok(blobsOf(join(dir, 'chart'))[chart.digest.slice('sha256:'.length)]?.equals(chart.bytes))

  const deleted = await run('skopeo', [
    'delete',
    '--tls-verify=false',
    `docker://${host}/team/charts/quay@${statements[0]?.[1].digest ?? ''}`,
  ])
  t.equal(deleted.code, 0, deleted.stderr)
  t.same(sorted(await listed()), sorted(expected(statements.slice(1))), 'a signature that was taken back')
})

function sorted(manifests: unknown): unknown[] {
  return (manifests as { digest: string }[]).toSorted((one, other) => (one.digest < other.digest ? -1 : 1))
}
