/** An index that was lost: made anew from the files, or by a backup, when a person says so. */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { gc } from '../../../src/admin/cli/gc.ts'
import { restore } from '../../../src/admin/cli/restore.ts'
import { verify } from '../../../src/admin/cli/verify.ts'
import { openMetadata } from '../../../src/storage/metadata/sqlite/open.ts'
import { pull, simulate, startMirror, type Mirror } from '../../support/app.ts'
import { APP, ARM, MULTI, NOBODY, PLAIN, save, SIGNATURE } from '../../support/backups.ts'
import { recordedEdge } from '../../support/edge.ts'
import { alone, blobFile, filesBelow, inDatabase, seedMirrored } from '../../support/folder.ts'
import { image, type Content } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'

const DAY = 86_400_000

interface Folder {
  readonly root: string
  /** Its configuration. */
  readonly config: string
  readonly database: string
}

async function folder(t: Test): Promise<Folder> {
  const dir = t.testdir()
  const root = path.join(dir, 'data')
  mkdirSync(root)
  const config = path.join(dir, 'config.yaml')
  writeFileSync(config, JSON.stringify({ storage: { root } }))
  await seedLocal(root, [
    { name: 'team/multi', tags: { '1': MULTI }, images: [SIGNATURE] },
    { name: 'team/plain', tags: { '1': PLAIN, old: PLAIN } },
  ])
  return { root, config, database: path.join(root, 'metadata.sqlite') }
}

const repositoryOf = ({ digest }: Content): string => `recovered/${digest.replace(':', '-')}`

async function said(
  run: (edge: ReturnType<typeof recordedEdge>) => Promise<number>,
): Promise<{ code: number; printed: string; complaints: string }> {
  const edge = recordedEdge()
  const code = await run(edge)
  return { code, printed: edge.printed.join('\n'), complaints: edge.complaints.join('\n') }
}

const collected = ({ config }: Folder) => said((edge) => gc({ config }, edge))

async function isServed(
  t: Test,
  mirror: Mirror,
  repository: string,
  reference: string,
  it: Content,
): Promise<void> {
  const { status, body } = await pull(`${mirror.url}/v2/${repository}/manifests/${reference}`)
  t.equal(status, 200, `${repository}:${reference}`)
  t.ok(body.equals(it.bytes))
}

test('verify --rebuild makes what manifests on the disk tell, and nothing is collected but what they do not', async (t) => {
  const it = await folder(t)
  const { root, config, database } = it
  const incomplete = image({ seed: 'incomplete', layers: [500, 600] })
  await seedLocal(root, [{ name: 'team/half', tags: { '1': incomplete } }])
  rmSync(blobFile(root, incomplete.layers[1]!.digest))
  truncateSync(database)
  const before = filesBelow(path.join(root, 'blobs'))
  t.match(await collected(it), { code: 1, complaints: /is empty/ })

  const { code, printed } = await said((edge) => verify({ config, rebuild: true }, edge))
  t.equal(code, 0, printed)
  t.match(
    printed,
    `${repositoryOf(MULTI.manifest)}:latest: ${MULTI.manifest.mediaType} with 3 other manifests`,
  )
  t.match(printed, `${repositoryOf(PLAIN.manifest)}:latest`)
  t.match(printed, /3 files: \d+ bytes that belong to no whole image/)
  t.match(await collected(it), { code: 0, printed: /^total\t\t0\t/ })
  t.same(filesBelow(path.join(root, 'blobs')), before)
  t.match(await said((edge) => verify({ config }, edge)), { code: 0, printed: /nothing is wrong/ })
  t.match(
    readdirSync(root).filter((name) => name.startsWith('lost-index-')),
    { length: 1 },
  )

  await using mirror = await startMirror(t, NOBODY, { root })
  const multi = repositoryOf(MULTI.manifest)
  await isServed(t, mirror, multi, 'latest', MULTI.manifest)
  await isServed(t, mirror, repositoryOf(PLAIN.manifest), 'latest', PLAIN.manifest)
  for (const manifest of [APP.manifest, ARM.manifest, SIGNATURE.manifest])
    await isServed(t, mirror, multi, manifest.digest, manifest)
  for (const { digest, bytes } of [...MULTI.blobs, ...SIGNATURE.blobs])
    t.ok((await pull(`${mirror.url}/v2/${multi}/blobs/${digest}`)).body.equals(bytes))
  const { body } = await pull(`${mirror.url}/v2/${multi}/referrers/${APP.manifest.digest}`)
  t.match(JSON.parse(body.toString()), { manifests: [{ digest: SIGNATURE.manifest.digest }] })
  await mirror.close()

  inDatabase(root, `update blob set stored_at = stored_at - ${String(DAY)}`)
  t.match(await collected(it), { printed: /^total\t\t3\t/m }, 'what belongs to none goes in its time')
  t.ok(existsSync(blobFile(root, PLAIN.layers[0]!.digest)))
})

test('an index that is only behind its files keeps what it knows', async (t) => {
  const it = await folder(t)
  const { root, config, database } = it
  const copy = path.join(root, 'copy')
  copyFileSync(database, copy)
  const later = image({ seed: 'later', layers: [800] })
  await seedLocal(root, [{ name: 'team/later', tags: { '1': later } }])
  copyFileSync(copy, database)
  t.match(await collected(it), { code: 1, complaints: /older than the files here/ })

  t.match(await said((edge) => verify({ config, rebuild: true }, edge)), { code: 0 })
  await using mirror = await startMirror(t, NOBODY, { root })
  await isServed(t, mirror, 'team/plain', 'old', PLAIN.manifest)
  await isServed(t, mirror, 'team/multi', '1', MULTI.manifest)
  await isServed(t, mirror, repositoryOf(later.manifest), 'latest', later.manifest)
  t.not((await pull(`${mirror.url}/v2/${repositoryOf(PLAIN.manifest)}/manifests/latest`)).status, 200)
})

test('what an index that is behind would let go of begins its grace period anew', async (t) => {
  const it = await folder(t)
  const { root, config, database } = it
  const running = await openMetadata(database)
  const loose = image({ seed: 'loose', layers: [900] })
  await running.close()
  await seedLocal(root, [{ name: 'team/loose', blobs: loose.blobs }])
  const copy = path.join(root, 'copy')
  copyFileSync(database, copy)
  // It was named later, which the copy does not know.
  await seedLocal(root, [{ name: 'team/loose', tags: { '1': loose } }])
  copyFileSync(copy, database)
  t.match(await said((edge) => verify({ config, rebuild: true }, edge)), { code: 0 })
  t.match(await collected(it), { code: 0, printed: /^total\t\t0\t/ })
})

test('restore brings a backup into the place of a lost index; all else stays until somebody says so', async (t) => {
  const it = await folder(t)
  const { root, config, database } = it
  const archive = path.join(path.dirname(root), 'archive.tar')
  await alone(root, (keeper) => save(keeper, archive))
  const later = image({ seed: 'later', layers: [800] })
  await seedLocal(root, [{ name: 'team/later', tags: { '1': later } }])
  rmSync(database)
  const before = filesBelow(path.join(root, 'blobs'))
  const { code, complaints } = await said((edge) => restore(archive, { config }, edge))
  t.equal(code, 0)
  t.match(complaints, /the index was lost: another one takes its place/)
  t.match(await collected(it), { code: 0, printed: /^total\t\t0\t/ })
  inDatabase(root, `update blob set stored_at = stored_at - ${String(DAY)}`)
  t.match(await collected(it), { code: 0, printed: /^total\t\t0\t/ }, 'however long it takes')
  {
    await using mirror = await startMirror(t, NOBODY, { root })
    await isServed(t, mirror, 'team/multi', '1', MULTI.manifest)
    await isServed(t, mirror, 'team/plain', 'old', PLAIN.manifest)
    t.same(filesBelow(path.join(root, 'blobs')), before)
  }
  t.match(await said((edge) => verify({ config, rebuild: true }, edge)), {
    code: 0,
    printed: new RegExp(`${repositoryOf(later.manifest)}:latest`),
  })
})

test('what was begun in the place of a lost index and did not come to its end is no index', async (t) => {
  const it = await folder(t)
  const { root, config, database } = it
  const archive = path.join(path.dirname(root), 'archive.tar')
  await alone(root, (keeper) => save(keeper, archive))
  truncateSync(archive, 5000)
  truncateSync(database)
  const before = filesBelow(path.join(root, 'blobs'))
  for (let again = 0; again < 2; again++) {
    t.match(await said((edge) => restore(archive, { config }, edge)), { code: 1 })
    t.match(await collected(it), {
      code: 1,
      complaints: /was lost, and the one that takes its place is not fini/,
    })
  }
  const interrupted = recordedEdge()
  interrupted.interrupt()
  t.equal(await verify({ config, rebuild: true }, interrupted), 130)
  await t.rejects(startMirror(t, NOBODY, { root }), /is not finished/)
  t.same(filesBelow(path.join(root, 'blobs')), before)
  t.match(await said((edge) => verify({ config, rebuild: true }, edge)), { code: 0 })
  await using mirror = await startMirror(t, NOBODY, { root })
  await isServed(t, mirror, repositoryOf(PLAIN.manifest), 'latest', PLAIN.manifest)
})

test('an index without one of its tables, or of another folder, is none to go on with', async (t) => {
  const { root, config, database } = await folder(t)
  const kept = path.join(path.dirname(root), 'kept')
  cpSync(root, kept, { recursive: true })
  const other = path.join(path.dirname(root), 'other')
  mkdirSync(other)
  await seedLocal(other, [{ name: 'team/other', tags: { '1': APP } }])
  for (const lose of [
    () => inDatabase(root, 'drop table manifest_reference'),
    () => copyFileSync(path.join(other, 'metadata.sqlite'), database),
    () => writeFileSync(database, 'no database'),
  ]) {
    rmSync(root, { recursive: true })
    cpSync(kept, root, { recursive: true })
    lose()
    t.match(await said((edge) => verify({ config, rebuild: true }, edge)), {
      code: 0,
      printed: new RegExp(`${repositoryOf(MULTI.manifest)}:latest`),
    })
    const metadata = await openMetadata(database)
    t.same(
      (await metadata.repositories.catalog({ limit: 10 })).filter((name) => !name.startsWith('recovered/')),
      [],
    )
    await metadata.close()
  }
})

test('with an index that is whole there is nothing to rebuild; beside a server it is refused', async (t) => {
  const { root, config } = await folder(t)
  await seedMirrored(root, { registry: 'docker.io', name: 'library/arm', tag: '1', image: ARM })
  const { code, printed } = await said((edge) => verify({ config, rebuild: true }, edge))
  t.equal(code, 0)
  t.notMatch(printed, /recovered|lost/)
  await startMirror(t, await simulate(t), { root })
  t.match(await said((edge) => verify({ config, rebuild: true }, edge)), {
    code: 1,
    complaints: /stop it, then verify --rebuild/,
  })
})
