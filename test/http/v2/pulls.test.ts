/** Which answers are told as pulls. */
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { call, serveFake } from '../../support/http-fakes.ts'

test('a GET that was answered is one, whatever only looked is none', async (t) => {
  const { url, repository, pulls } = await serveFake(t)
  const bytes = Buffer.alloc(1000, 'blob')
  const digest = repository.addBlob(bytes)
  const manifest = repository.addManifest('latest', Buffer.from('{}'))
  const blob = `${url}/v2/library/app/blobs/${digest}`
  const tag = `${url}/v2/library/app/manifests/latest`
  for (const path of [blob, tag]) {
    await call(path, { method: 'HEAD' })
    await call(path, { headers: { 'if-none-match': '*' } })
  }
  await call(`${url}/v2/library/app/manifests/none`)
  await call(`${url}/v2/library/app/blobs/${digestOf(Buffer.from('none'))}`)
  await call(blob, { headers: { range: 'bytes=2000-' } })
  t.same(pulls, [])

  await call(tag)
  await call(`${url}/v2/library/app/manifests/${manifest}`)
  await call(blob)
  const pull = { action: 'pull', repository: 'docker.io/library/app', upstream: 'docker.io' }
  const facts = { digest: manifest, mediaType: 'application/vnd.oci.image.manifest.v1+json', size: 2 }
  t.same(pulls, [
    { ...pull, kind: 'manifest', ...facts, tag: 'latest' },
    { ...pull, kind: 'manifest', ...facts, tag: undefined },
    { ...pull, kind: 'blob', digest, mediaType: 'application/octet-stream', size: 1000 },
  ])
})

test('of a blob in parts the first byte counts', async (t) => {
  const { url, repository, pulls } = await serveFake(t)
  const digest = repository.addBlob(Buffer.alloc(1000, 'blob'))
  const get = (range: string) => call(`${url}/v2/app/blobs/${digest}`, { headers: { range } })
  for (const range of ['bytes=1-', 'bytes=500-600', 'bytes=-10', 'bytes=5-6,7-8']) await get(range)
  t.equal(pulls.length, 0)
  for (const range of ['bytes=0-0', 'bytes=0-', 'bytes=5-6,0-1']) await get(range)
  t.equal(pulls.length, 3)
})

test('an answer that broke off is none', async (t) => {
  const { url, repository, pulls } = await serveFake(t)
  const digest = repository.addBlob(Buffer.alloc(1000, 'blob'))
  for (const unknownSize of [false, true]) {
    repository.unknownSize = unknownSize
    repository.behaviour = { failAt: 500, chunk: 100 }
    await t.rejects(call(`${url}/v2/app/blobs/${digest}`))
    t.equal(pulls.length, 0)
  }
  repository.behaviour = {}
  await call(`${url}/v2/app/blobs/${digest}`)
  t.match(pulls, [{ digest, size: undefined }])
})
