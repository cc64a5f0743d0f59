/** `entrepot rm` against a running server that also mirrors. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { rm } from '../../../src/admin/cli/rm.ts'
import { connectToServer } from '../../../src/admin/control/client.ts'
import { pull, simulate, startMirror } from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import { image } from '../../support/images.ts'
import { shortDir } from '../../support/programs.ts'
import { pushImage } from '../../support/push.ts'

const app = image({ seed: 'app' })
const other = image({ seed: 'other' })
const upstreams = image({ seed: 'of the upstream' })

/** A server on loopback, so that any free name may be pushed to, and its command. */
async function entrepot(t: Test, config: Record<string, unknown> = {}) {
  const upstream = await simulate(t)
  upstream.addImage('team/app', '1', upstreams)
  const mirror = await startMirror(t, upstream, { config })
  const file = join(shortDir(t), 'config.yaml')
  writeFileSync(file, JSON.stringify({ storage: { root: mirror.root }, ...config }))
  const run = async (refs: string[], options: { all?: boolean; release?: boolean } = {}) => {
    const edge = recordedEdge()
    const code = await rm(refs, { config: file, ...options }, edge)
    return { code, said: [...edge.printed, ...edge.complaints].join('\n') }
  }
  const repository = `${mirror.url}/v2/team/app`
  const status = async (reference: string): Promise<number> =>
    (await pull(`${repository}/manifests/${reference}`)).status
  return { mirror, upstream, run, repository, status }
}

test('a tag goes, its image stays; by digest the image goes with all its tags', async (t) => {
  const { run, repository, status } = await entrepot(t)
  for (const tag of ['1', '2', '3']) await pushImage(repository, app, tag)
  t.same(await run(['team/app:1']), { code: 0, said: 'removed team/app:1' })
  t.same([await status('1'), await status('2'), await status(app.manifest.digest)], [404, 200, 200])
  const reference = `team/app@${app.manifest.digest}`
  t.same(await run([reference]), { code: 0, said: `removed ${reference} and its tags` })
  t.same([await status('2'), await status('3'), await status(app.manifest.digest)], [404, 404, 404])
  t.match(await run(['team/app:2']), { code: 1, said: 'entrepot: there is no 2 in team/app' })
})

test('a name whose content was deleted stays local until it is released; then it is mirrored again', async (t) => {
  const { run, repository, status, upstream } = await entrepot(t)
  await pushImage(repository, app, '1')
  await pushImage(repository, other, '2')
  const used = await run(['team/app'], { release: true })
  t.equal(used.code, 1)
  t.match(
    used.said,
    'team/app is in use: it still has tags: 1, 2; `entrepot rm --all team/app` deletes all of it',
  )
  await run(['team/app:1', 'team/app:2'])
  const untagged = await run(['team/app'], { release: true })
  t.equal(untagged.code, 1)
  t.match(untagged.said, 'team/app is in use: it still holds images without a tag')

  t.match(await run(['team/app'], { all: true }), {
    code: 0,
    said: /^removed all of team\/app; the name stays local/,
  })
  t.same([await status('1'), await status(app.manifest.digest)], [404, 404])
  t.equal((await pull(`${repository}/tags/list`)).status, 404)
  t.equal(upstream.log.count(), 0, 'no upstream has heard of the name')
  t.match(await run(['team/app'], { all: true }), { code: 1, said: /deleted already/ })

  t.same(await run(['team/app'], { release: true }), { code: 0, said: 'released team/app' })
  const mirrored = await pull(`${repository}/manifests/1`)
  t.same([mirrored.status, mirrored.cache, mirrored.body], [200, 'miss', upstreams.manifest.bytes])
  t.match(await run(['team/app'], { release: true }), {
    code: 1,
    said: /no local repository is called team\/app/,
  })
})

test('a released name may be pushed to again', async (t) => {
  const { run, repository, status } = await entrepot(t)
  await pushImage(repository, app, '1')
  await run(['team/app'], { all: true })
  t.equal((await pushImage(repository, app, '1')).status, 201, 'so may one that was only emptied')
  await run(['team/app'], { all: true })
  await run(['team/app'], { release: true })
  t.equal((await pushImage(repository, app, '1')).status, 201)
  t.equal(await status('1'), 200)
})

test('a glob of the configuration keeps a released name local, and that is said', async (t) => {
  const { run, repository, upstream, status } = await entrepot(t, { local: ['team/**'] })
  await pushImage(repository, app, '1')
  await run(['team/app'], { all: true })
  t.match(await run(['team/app'], { release: true }), {
    code: 0,
    said: /^released team\/app; a glob of `local`/,
  })
  t.equal(await status('1'), 404)
  t.equal(upstream.log.count(), 0)
})

test('what was never here is not removed, and what is mirrored has no name to let go of', async (t) => {
  const { run, status } = await entrepot(t)
  t.match(await run(['team/app:1']), { code: 1, said: /there is no 1 in docker\.io\/team\/app/ })
  t.match(await run(['team/app'], { all: true }), {
    code: 1,
    said: /nothing of docker\.io\/team\/app is here/,
  })
  t.equal(await status('1'), 200)
  t.match(await run(['team/app'], { release: true }), { code: 1, said: /no local repository is called/ })
  t.equal(await status('1'), 200)
})

test('what is not said clearly is not done, not even in part', async (t) => {
  const { run, repository, status } = await entrepot(t)
  await pushImage(repository, app, '1')
  for (const [ref, options, words] of [
    ['team/app', {}, /names no tag and no digest: say team\/app:TAG or team\/app@DIGEST, or --all/],
    ['team/app:1', { all: true }, /names more than a repository: say team\/app/],
    ['team/app:1', { release: true }, /names more than a repository: say team\/app/],
    [`team/app:1@${app.manifest.digest}`, {}, /names a tag and a digest/],
    ['localhost:5000/team/app:1', {}, /invalid repository name/],
    ['Team/app:1', {}, /invalid repository name/],
    ['team/app:', {}, /invalid tag/],
    ['team/app@sha256:1234', {}, /digest is not valid/],
  ] as const) {
    const { code, said } = await run([ref], options)
    t.equal(code, 1, ref)
    t.match(said, words)
  }
  t.equal((await run(['team/app:1', 'team/app'])).code, 1)
  t.equal(await status('1'), 200)
})

test('a repository that is emptied gives its bytes back with the next collection', async (t) => {
  const { run, repository, mirror } = await entrepot(t, { push: { gcGrace: '1ms' } })
  await pushImage(repository, app, '1')
  t.equal((await run(['team/app'], { all: true })).code, 0)
  const signal = new AbortController().signal
  const keeper = (await connectToServer(mirror.root, signal))!
  let bytes = 0
  for await (const it of keeper.gc({ dryRun: false }, signal)) bytes += it.bytes
  t.equal(
    bytes,
    [...app.blobs, ...app.manifests].reduce((sum, it) => sum + it.bytes.length, 0),
  )
})
