/** `entrepot explain`, `ls` and `refresh`: beside a server and alone, for people and for programs. */
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { explain } from '../../../src/admin/cli/explain.ts'
import { ls } from '../../../src/admin/cli/ls.ts'
import { refresh } from '../../../src/admin/cli/refresh.ts'
import type { Explanation } from '../../../src/admin/explain/explanation.ts'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { eventually, pull, settled, simulate, startMirror } from '../../support/app.ts'
import { recordedEdge, type RecordedEdge } from '../../support/edge.ts'
import { blobFile, inDatabase, seedMirrored } from '../../support/folder.ts'
import { image, index, type Image } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'
import { shortDir } from '../../support/programs.ts'

const nginx = image({ seed: 'nginx', layers: [3000, 50_000] })
const app = image({ seed: 'app', layers: [700] })
const other = image({ seed: 'other', layers: [900] })

const NGINX = { registry: 'docker.io', name: 'library/nginx', tag: '1', image: nginx }

/** A folder with a mirrored and a pushed image, and a file that configures it. */
async function seeded(t: Test, more: Record<string, unknown> = {}): Promise<{ root: string; file: string }> {
  const dir = shortDir(t)
  const root = join(dir, 'data')
  const file = join(dir, 'config.yaml')
  await seedMirrored(root, NGINX, Date.now() - 7_200_000)
  await seedLocal(root, [{ name: 'team/app', tags: { 2: app, 1: app } }])
  const nobody = { 'docker.io': { url: 'http://127.0.0.1:9', default: true } }
  writeFileSync(file, JSON.stringify({ storage: { root }, upstreams: nobody, ...more }))
  return { root, file }
}

async function run(
  command: (edge: RecordedEdge) => Promise<number>,
  options: { terminal?: boolean } = {},
): Promise<{ code: number; lines: string[]; complaints: string[] }> {
  const edge = recordedEdge(options)
  const code = await command(edge)
  return { code, lines: edge.printed, complaints: edge.complaints }
}

test('explain, alone: what is here, in sentences and columns; of upstreams nothing is known', async (t) => {
  const { file, root } = await seeded(t)
  rmSync(blobFile(root, nginx.layers[1]!.digest))
  const { code, lines } = await run((edge) => explain('nginx:1', { config: file }, edge))
  t.equal(code, 0)
  t.equal(lines[0], 'docker.io/library/nginx:1')
  const text = lines.join('\n')
  t.match(text, /^ {2}name {6}rule 5: no other rule takes it/m)
  t.match(text, /^ {2}pull {6}would ask docker\.io by HEAD/m)
  t.match(text, /^ {12}1 of 3 blobs are not here and would be fetched from docker\.io$/m)
  t.match(text, /^ {2}tag {7}sha256:[0-9a-f]{12}, confirmed 2 hours ago, to be asked about again since /m)
  t.match(text, /^ {2}upstream {2}no server runs: how docker\.io does is not known$/m)
  t.match(lines.slice(-3), [
    /^ {2}config {4}sha256:[0-9a-f]{12} {6}\d+ B {2}present$/,
    /^ {2}layer {5}sha256:[0-9a-f]{12} {3}2\.93 KiB {2}present$/,
    /^ {2}layer {5}sha256:[0-9a-f]{12} {3}48\.8 KiB {2}missing$/,
  ])
})

test('explain --json is what the server answers over HTTP', async (t) => {
  const { file, root } = await seeded(t)
  const mirror = await startMirror(t, await simulate(t), { root })
  const told = await run((edge) => explain('team/app:1', { config: file, json: true }, edge))
  const { body } = await pull(`${mirror.url}/_entrepot/explain?ref=team/app:1`)
  const spans = (key: string, value: unknown): unknown => (key.endsWith('Ago') ? undefined : value)
  t.same(JSON.parse(told.lines.join(''), spans), JSON.parse(body.toString(), spans))
  t.match(JSON.parse(body.toString()), { route: { rule: 'existing' }, pull: { outcome: 'local' } })
  const bad = await run((edge) => explain('No:such', { config: file }, edge))
  t.match(bad, { code: 1, lines: [], complaints: [/^entrepot: invalid repository name$/] })
})

test('ls for programs: six fields, sorted by name, what has no tag by its digest', async (t) => {
  const { file, root } = await seeded(t, { cache: { pin: ['docker.io/library/nginx:*'] } })
  const untagged = { ...NGINX, name: 'library/zebra', tag: 'x', image: other }
  await seedMirrored(root, untagged)
  inDatabase(root, `delete from tag where tag = 'x'`)
  const { code, lines } = await run((edge) => ls(undefined, { config: file }, edge))
  t.equal(code, 0)
  const size = (it: Image): number =>
    [...it.manifests, ...it.blobs].reduce((sum, { bytes }) => sum + bytes.length, 0)
  t.match(
    lines.map((line) => line.split('\t')),
    [
      [
        'docker.io/library/nginx:1',
        nginx.manifest.digest,
        String(size(nginx)),
        /^72\d\d$/,
        /^72\d\d$/,
        'pinned',
      ],
      [
        `docker.io/library/zebra@${other.manifest.digest}`,
        other.manifest.digest,
        String(size(other)),
        /./,
        /./,
        'cached',
      ],
      ['team/app:1', app.manifest.digest, String(size(app)), /./, /./, 'pushed'],
      ['team/app:2', app.manifest.digest, String(size(app)), /./, /./, 'pushed'],
    ],
  )
  const named = async (pattern: string): Promise<string[]> =>
    (await run((edge) => ls(pattern, { config: file }, edge))).lines.map((line) => line.split('\t')[0]!)
  t.same(await named('team/'), ['team/app:1', 'team/app:2'])
  t.same(await named('team/app:2'), ['team/app:2'])
  t.same(await named('docker.io/**:1'), ['docker.io/library/nginx:1'])
  t.same(await named('docker.io/*/z*'), [`docker.io/library/zebra@${other.manifest.digest}`])
  t.same(await named('nobody'), [])
  const json = await run((edge) => ls('team/app:1', { config: file, json: true }, edge))
  t.match(JSON.parse(json.lines[0]!), { name: 'team/app', tag: '1', is: 'pushed', bytes: size(app) })
})

test('ls for people: a heading, columns, and how many', async (t) => {
  const { file } = await seeded(t)
  const { lines } = await run((edge) => ls(undefined, { config: file }, edge), { terminal: true })
  t.match(lines, [
    /^NAME +DIGEST +SIZE +PULLED +AGE {2}STATE$/,
    /^docker\.io\/library\/nginx:1 +sha256:[0-9a-f]{12} +52\.\d KiB +2 hours +2 hours {2}cached$/,
    /^team\/app:1 +sha256:[0-9a-f]{12} +1\.\d+ KiB +\d+ days +\d+ days {2}pushed$/,
    /^team\/app:2 /,
    '3 images',
  ])
})

test('ls of many tags comes in parts, in order, each once', async (t) => {
  const { file, root } = await seeded(t)
  const tags = Array.from({ length: 450 }, (_, at) => `v${String(at).padStart(3, '0')}`)
  const { digest, bytes, mediaType } = nginx.manifest
  const values = tags.map(
    (it) => `('docker.io/library/nginx', '${it}', '${digest}', ${bytes.length}, '${mediaType}', 1)`,
  )
  inDatabase(
    root,
    `insert into tag (repository, tag, digest, size, media_type, checked_at) values ${values.join()}`,
  )
  const { lines } = await run((edge) => ls('docker.io/', { config: file }, edge))
  t.same(
    lines.map((line) => line.split('\t')[0]),
    ['1', ...tags].map((tag) => `docker.io/library/nginx:${tag}`),
  )
})

/** A server whose `app:1` is here in full, and its commands. */
async function serving(
  t: Test,
  held: Image,
  settings: Record<string, unknown> = {},
  files: Files = nodeFiles,
) {
  const upstream = await simulate(t)
  upstream.addImage('library/app', '1', held)
  const cache = { prefetch: 'off', tagTtl: '1h' }
  const mirror = await startMirror(t, upstream, { cache, upstream: settings, files })
  const file = join(shortDir(t), 'config.yaml')
  writeFileSync(file, JSON.stringify({ storage: { root: mirror.root } }))
  const get = (what: string) => pull(`${mirror.url}/v2/app/${what}`)
  const refreshing = (ref = 'app:1') => run((edge) => refresh([ref], { config: file }, edge))
  const explained = async (ref = 'app:1'): Promise<Explanation> =>
    JSON.parse((await pull(`${mirror.url}/_entrepot/explain?ref=${ref}`)).body.toString()) as Explanation
  await get('manifests/1')
  await eventually('it is here', async () => (await explained()).image?.held === true)
  return { upstream, mirror, get, refreshing, explained }
}

test('refresh asks whatever the age: unchanged, moved with what was held, gone, and what it is not for', async (t) => {
  const { upstream, mirror, get, refreshing, explained } = await serving(t, app)
  for (const { digest } of app.blobs) await get(`blobs/${digest}`)
  await settled(mirror)
  const asked = upstream.log.count({ kind: 'manifest' })
  t.match(await refreshing(), {
    code: 0,
    lines: [
      `docker.io/library/app:1: unchanged, confirmed: ${app.manifest.digest}`,
      '  nothing had to be fetched',
    ],
  })
  t.equal(upstream.log.count({ kind: 'manifest' }), asked + 1, 'by one HEAD')
  rmSync(blobFile(mirror.root, app.layers[0]!.digest))
  t.match((await refreshing()).lines[1], '  fetched 1 file, 700 B')
  t.ok(existsSync(blobFile(mirror.root, app.layers[0]!.digest)))

  upstream.moveTag('library/app', '1', other)
  t.match(await refreshing(), {
    code: 0,
    lines: [
      `docker.io/library/app:1: moved from ${app.manifest.digest} to ${other.manifest.digest}`,
      /^ {2}fetched 3 files, 1\.\d+ KiB$/,
    ],
  })
  t.match((await explained()).image, { digest: other.manifest.digest, totals: { missingParts: 0 } })
  t.match(await refreshing('app:2'), {
    code: 1,
    complaints: [/nothing of docker\.io\/library\/app:2 is here: a pull/],
  })

  upstream.deleteTag('library/app', '1')
  t.match(
    (await refreshing()).lines[0],
    `docker.io/library/app:1: gone upstream; what it named is kept: ${other.manifest.digest}`,
  )
  t.match((await explained()).tag, { goneMsAgo: Number })
  await upstream.stop()
  t.match(await refreshing(), { code: 1, complaints: [/^entrepot: docker\.io cannot be reached/] })
})

test('refresh of a tag that is gone upstream, and goes on answering', async (t) => {
  const { upstream, get, refreshing } = await serving(t, app, { on404: 'keep' })
  upstream.deleteTag('library/app', '1')
  t.match(await refreshing(), {
    code: 0,
    lines: [`docker.io/library/app:1: gone upstream; what it named is kept: ${app.manifest.digest}`],
  })
  t.equal((await get('manifests/1')).status, 200)
})

test('refresh of an index fetches the platforms that were held, and no other', async (t) => {
  const platform = (seed: string): Image => image({ seed, layers: [500] })
  const [amd64, arm64] = [platform('amd64'), platform('arm64')]
  const { upstream, get, refreshing, explained } = await serving(t, index({ images: { amd64, arm64 } }))
  await get(`manifests/${amd64.manifest.digest}`)
  await eventually('its manifest is here', async () => {
    return (await explained()).image?.platforms[0]?.state === 'partial'
  })
  const next = index({ images: { amd64: platform('next amd64'), arm64: platform('next arm64') } })
  upstream.moveTag('library/app', '1', next)
  const { code, lines } = await refreshing()
  t.match({ code, lines }, { code: 0, lines: [/moved from/, /^ {2}fetched 4 files/] })
  t.match((await explained()).image?.platforms, [
    { platform: 'linux/amd64', state: 'present' },
    { platform: 'linux/arm64', state: 'missing' },
  ])
  upstream.fault({ kind: 'blob' }, { status: 404, code: 'BLOB_UNKNOWN' })
  const lost = index({ images: { amd64: platform('lost') } })
  upstream.moveTag('library/app', '1', lost)
  const failing = await refreshing()
  t.match(failing, { code: 1, lines: [/moved from/, /^ {2}fetched 2 files, .*; 2 files could not be had$/] })
  t.match(failing.complaints[0], /^entrepot: sha256:[0-9a-f]{64}: upstream does not have it$/)
})

test('refresh knows the platforms that were held, also of a manifest that is read in pieces', async (t) => {
  const files: Files = {
    ...nodeFiles,
    read: (file, buffer, position) => nodeFiles.read(file, buffer.subarray(0, 100), position),
  }
  const amd64 = image({ seed: 'amd64', layers: [500] })
  const arm64 = image({ seed: 'arm64', layers: [500] })
  const { upstream, get, refreshing, explained } = await serving(
    t,
    index({ images: { amd64, arm64 } }),
    {},
    files,
  )
  await get(`manifests/${amd64.manifest.digest}`)
  await eventually('its manifest is here', async () => {
    return (await explained()).image?.platforms[0]?.state === 'partial'
  })
  const next = index({ images: { amd64: image({ seed: 'next amd64', layers: [500] }), arm64 } })
  upstream.moveTag('library/app', '1', next)
  t.match(await refreshing(), { code: 0, lines: [/moved from/, /^ {2}fetched 4 files/] })
})

test('refresh works without a server too', async (t) => {
  const upstream = await simulate(t)
  const upstreams = { 'docker.io': { url: upstream.url, default: true } }
  const { file, root } = await seeded(t, { upstreams })
  upstream.addImage('library/nginx', '1', other)
  const moved = await run((edge) => refresh(['nginx:1'], { config: file }, edge))
  t.match(moved, { code: 0, lines: [/^docker\.io\/library\/nginx:1: moved from/, /fetched 3 files/] })
  t.ok(existsSync(blobFile(root, other.layers[0]!.digest)))
  const local = await run((edge) => refresh(['team/app:1'], { config: file }, edge))
  t.match(local, {
    code: 1,
    complaints: ['entrepot: team/app was pushed here: there is nobody to ask about it'],
  })
})
