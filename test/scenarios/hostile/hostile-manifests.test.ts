/** Documents that are made to hurt whoever reads them: refused in time, or passed untouched. */
import { test } from 'tap'
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import { parseRepositoryName, parseTag } from '../../../src/oci/reference.ts'
import { eventually, pull } from '../../support/app.ts'
import { HOSTILE_MANIFESTS } from '../../support/faults/hostile-manifests.ts'
import { content, image } from '../../support/images.ts'
import { REPO, startTagged } from '../../support/tagged.ts'
import { storedFiles } from '../../support/trouble.ts'
import { codeOf } from '../../support/two-upstreams.ts'

const MiB = 1024 * 1024
/** Far beyond what any of it may take on a busy machine: it hangs, or it does not. */
const PATIENCE_MS = 20_000

test('jsonBomb: what is no manifest is refused, what is one passes, and neither holds anybody up', async (t) => {
  const { upstream, mirror, get, blob } = await startTagged(t, { budgetMs: PATIENCE_MS })
  for (const [at, { name, bytes, taken }] of HOSTILE_MANIFESTS.entries()) {
    const tag = `hostile-${at}`
    const hostile = content(MEDIA_TYPES.ociManifest, bytes)
    upstream.holdings.addManifest(REPO, tag, hostile)
    const startedAt = performance.now()
    const [answer, ping] = await Promise.all([get(tag), pull(`${mirror.url}/v2/`)])
    t.equal(ping.status, 200)
    t.ok(performance.now() - startedAt < PATIENCE_MS, name)
    const record = () =>
      mirror.app.metadata.tags.get({ registry: 'docker.io', name: parseRepositoryName(REPO) }, parseTag(tag))
    if (taken) {
      t.equal(answer.status, 200, name)
      t.ok(answer.body.equals(bytes), name)
      await eventually(`${name} is kept`, async () => (await record()) !== undefined)
    } else {
      t.equal(answer.status, 503, name)
      t.equal(codeOf(answer), 'UNAVAILABLE')
      t.equal((await get(hostile.digest)).status, 503, name)
      t.equal(await record(), undefined)
      t.notOk((await storedFiles(mirror, 'blobs')).includes(hostile.digest.slice(7)), `${name} is not kept`)
    }
    t.equal((await blob(hostile.digest)).status, 404, 'nor is it a blob')
  }
  t.equal(({} as { polluted?: number }).polluted, undefined)
  t.equal((await get()).status, 200)
})

test('manifestTooBig: 4 MiB are taken, and neither one byte more, nor twice as much, nor what never ends', async (t) => {
  const { upstream, mirror, get } = await startTagged(t)
  const spare = 4 * MiB - image({ pad: 1_000_000 }).manifest.bytes.length
  for (const [tag, more] of Object.entries({ less: -1, most: 0, more: 1, twice: 4 * MiB })) {
    const sized = image({ pad: 1_000_000 + spare + more })
    t.equal(sized.manifest.bytes.length, 4 * MiB + more)
    upstream.addImage(REPO, tag, sized)
    for (const chunked of [false, true]) {
      const rule = upstream.fault({ kind: 'manifest', method: 'GET' }, { noContentLength: chunked })
      const answer = await get(tag)
      if (more <= 0) t.ok(answer.body.equals(sized.manifest.bytes), `${tag}, chunked: ${chunked}`)
      else t.same([answer.status, codeOf(answer)], [503, 'UNAVAILABLE'], `${tag}, chunked: ${chunked}`)
      rule.remove()
    }
  }
  upstream.addImage(REPO, 'endless', image({ seed: 'endless' }))
  upstream.fault({ kind: 'manifest', method: 'GET' }, { infinite: true })
  const sent = upstream.log.bytesSent('manifest')
  t.equal((await get('endless')).status, 503)
  await upstream.log.until((log) => log.inFlight('manifest') === 0)
  t.ok(upstream.log.bytesSent('manifest') - sent < 16 * MiB, 'it is not read to where it does not end')
  upstream.rules.clear()
  t.equal((await get('endless')).status, 200)
  t.equal((await pull(`${mirror.url}/v2/`)).status, 200)
})
