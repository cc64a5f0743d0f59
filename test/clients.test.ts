/**
 * What the clients of the field make of the mirror on a good day, and that the emulators keep their own rules.
 */
import { test, type Test } from 'tap'
import { settled, simulate, startMirror } from './support/app.ts'
import { CLIENTS } from './support/clients/all.ts'
import { run, type Outcome } from './support/clients/client.ts'
import { craneDigest } from './support/clients/crane.ts'
import type { Exchange } from './support/clients/wire.ts'
import { image, index } from './support/images.ts'
import type { UpstreamSimulator } from './support/upstream.ts'

const LAYERS = [700_000, 150_000, 40_000, 1_000]
const AMD64 = image({ layers: LAYERS })
const ARM64 = image({ layers: LAYERS, architecture: 'arm64', seed: 'arm64' })
const GREETING = index({ images: { amd64: AMD64, arm64: ARM64 } })
const NAME = { repository: 'library/greeting', tag: '1' }
/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:1'

async function registry(t: Test): Promise<UpstreamSimulator> {
  const simulator = await simulate(t)
  simulator.addImage(NAME.repository, NAME.tag, GREETING)
  return simulator
}

for (const client of CLIENTS) {
  test(`${client.name} pulls everything from the mirror, cold and warm`, async (t) => {
    const upstream = await registry(t)
    const mirror = await startMirror(t, upstream)
    // There is no other registry to go to.
    const pull = (): Promise<Outcome> => run(client, { mirror: mirror.url, real: NOWHERE, ...NAME })

    const cold = await pull()
    isWhole(t, cold)
    await settled(mirror)
    for (const { digest } of AMD64.blobs) {
      t.equal(upstream.log.count({ kind: 'blob', method: 'GET', ref: digest }), 1, 'a blob is fetched once')
    }
    for (const { digest } of ARM64.blobs) t.equal(upstream.log.count({ ref: digest }), 0, 'and no other')

    const asked = upstream.log.count()
    const warm = await pull()
    isWhole(t, warm)
    t.equal(upstream.log.count(), asked, 'upstream is not asked again')
    for (const exchange of warm.exchanges.filter(({ path }) => path !== '/v2/')) {
      t.equal(exchange.headers['x-cache'], 'hit')
    }
    for (const exchange of [...cold.exchanges, ...warm.exchanges]) hasRightHeaders(t, exchange)
  })
}

function isWhole(t: Test, { ending, error, share, shelf, exchanges }: Outcome): void {
  t.equal(ending, 'pulled', error?.message ?? 'pulled')
  t.equal(share, 1, 'all of it from the mirror')
  const wanted = [GREETING.manifest, AMD64.manifest, ...AMD64.blobs]
  t.strictSame([...shelf.contents.keys()].sort(), wanted.map(({ digest }) => digest).sort())
  t.notOk(exchanges.some(({ endpoint }) => endpoint === 'real'))
}

function hasRightHeaders(t: Test, { method, path, head, status, headers, bytes, ended }: Exchange): void {
  const url = new URL(path, 'http://mirror')
  const range = head.find(([name]) => name === 'Range')?.[1]
  t.ok(status === 200 || (status === 206 && range !== undefined), `${method} ${path}: ${String(status)}`)
  t.equal(headers['content-encoding'], undefined)
  t.equal(headers['www-authenticate'], undefined)
  t.equal(headers['x-registry-supports-signatures'], undefined)
  t.equal(headers['docker-distribution-api-version'], 'registry/2.0')
  t.equal(headers['oci-namespace'], url.searchParams.get('ns') ?? undefined)
  if (url.pathname === '/v2/') return
  const reference = url.pathname.split('/').at(-1) ?? ''
  const found = [...GREETING.manifests, ...GREETING.blobs].find(({ digest }) => digest === reference)
  const content = found ?? GREETING.manifest
  t.equal(headers['docker-content-digest'], content.digest)
  if (method === 'HEAD' || ended === 'whole')
    t.equal(Number(headers['content-length']), method === 'HEAD' ? content.bytes.length : bytes)
  if (url.pathname.includes('/manifests/')) t.equal(headers['content-type'], content.mediaType)
  if (status !== 206) return
  if (range?.includes(',') === true) {
    t.match(headers['content-type'], /^multipart\/byteranges; boundary=/)
    return
  }
  const { length } = content.bytes
  const first = /^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? ''
  t.equal(headers['content-range'], `bytes ${first}-${String(length - 1)}/${String(length)}`)
}

test('crane digest is content with a HEAD', async (t) => {
  const mirror = await startMirror(t, await registry(t))
  const { ending, exchanges } = await run(craneDigest, { mirror: mirror.url, real: NOWHERE, ...NAME })
  t.equal(ending, 'pulled')
  t.strictSame(
    exchanges.map(({ method }) => method),
    ['GET', 'HEAD'],
  )
})
