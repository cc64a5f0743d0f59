/**
 * A real server whose disk rots under it: one layer is healed by its upstream, the other by who pushed it, and nobody
 * is ever served a wrong byte.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { eventually, isWhole, pull, simulate } from '../support/app.ts'
import { blobFile } from '../support/folder.ts'
import { image } from '../support/images.ts'
import { Entrepot } from '../support/process.ts'
import { pushImage } from '../support/push.ts'

const CACHED = image({ seed: 'cached', layers: [9_000_000] })
const PUSHED = image({ seed: 'pushed', layers: [9_000_000] })

function flipByte(file: string): void {
  const bytes = readFileSync(file)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(file, bytes)
}

test('what rots is found by the scrub, and healed', async (t) => {
  const upstream = await simulate(t)
  upstream.addImage('library/cached', '1', CACHED)
  const dir = t.testdir()
  const server = await Entrepot.start(t, {
    dir,
    config: {
      upstreams: { 'docker.io': { url: upstream.url, default: true } },
      cache: { scrubInterval: '4s' },
      local: ['team/**'],
    },
  })
  const root = join(dir, 'data')
  const [cached, pushed] = [CACHED.layers[0]!, PUSHED.layers[0]!]
  const urls = {
    cached: `${server.url}/v2/library/cached/blobs/${cached.digest}`,
    pushed: `${server.url}/v2/team/app/blobs/${pushed.digest}`,
  }
  await pull(`${server.url}/v2/library/cached/manifests/1`)
  t.ok(isWhole(await pull(urls.cached), cached))
  t.equal((await pushImage(`${server.url}/v2/team/app`, PUSHED, '1')).status, 201)
  await eventually(
    'the fills have ended',
    async () => (await server.metric('entrepot_fills_in_flight')) === 0,
  )
  const downloads = upstream.log.count({ kind: 'blob', method: 'GET', ref: cached.digest })

  flipByte(blobFile(root, cached.digest))
  flipByte(blobFile(root, pushed.digest))
  await eventually('both are found', async () => {
    const found = await server.metric('entrepot_scrub_corrupt_total')
    return found >= 2 && (await server.metric('entrepot_fills_in_flight')) === 0
  })

  await eventually('the cached one is here again, and nobody asked', () => {
    const file = blobFile(root, cached.digest)
    return existsSync(file) && readFileSync(file).equals(cached.bytes)
  })
  t.equal(upstream.log.count({ kind: 'blob', method: 'GET', ref: cached.digest }), downloads + 1)
  const healed = await pull(urls.cached)
  t.ok(isWhole(healed, cached))
  t.equal(healed.cache, 'hit')

  const answer = await pull(urls.pushed)
  t.equal(answer.status, 500)
  t.match(answer.body.toString(), /"CONTENT_DAMAGED".*push it again/)
  t.equal((await pull(urls.pushed, {}, 'HEAD')).status, 404)
  const ready = async () => JSON.parse((await pull(`${server.url}/readyz`)).body.toString()) as unknown
  t.match(await ready(), {
    status: 'degraded',
    quarantine: { count: 1, blobs: [{ digest: pushed.digest, state: 'damaged', affects: ['team/app:1'] }] },
  })
  t.equal(await server.metric('entrepot_quarantined_blobs'), 1)
  t.equal(await server.metric('entrepot_scrub_corrupt_total', { kind: 'pushed' }), 1)
  t.ok(existsSync(join(root, 'quarantine', pushed.digest.replace(':', '-'))))
  const damaged = 'pushed content is damaged: push it again'
  await server.logged(damaged)
  const lines = server.log.filter(({ msg }) => msg === damaged)
  t.match(lines, [{ level: 'error', digest: pushed.digest, uses: ['team/app:1'] }])

  t.equal((await pushImage(`${server.url}/v2/team/app`, PUSHED, '1')).status, 201)
  t.ok(isWhole(await pull(urls.pushed), pushed))
  t.match(await ready(), { status: 'ok', quarantine: { count: 0, blobs: [] } })
  t.equal(await server.metric('entrepot_quarantined_blobs'), 0)
  t.ok((await server.metric('entrepot_scrubbed_bytes_total')) >= 18_000_000)
})
