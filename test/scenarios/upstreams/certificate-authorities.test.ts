/** The file of an upstream's `ca`, changed while the server runs. */
import { renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { eventually, ownFolder, pull, simulate, startMirror } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import { OTHER_HOSTS_CERTIFICATE, TEST_CERTIFICATE, TEST_KEY } from '../../support/upstream-tls.ts'

test("an upstream's certificates are read again when their file changes, and bad ones are told once", async (t) => {
  const upstream = await simulate(t, { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } })
  upstream.addImage('library/app', '1', image())
  upstream.addImage('library/app', '2', image({ seed: 'two' }))
  const root = ownFolder(t)
  const ca = path.join(root, 'ca.pem')
  const put = (pem: string): void => {
    writeFileSync(`${ca}.new`, pem)
    renameSync(`${ca}.new`, ca)
  }
  put(OTHER_HOSTS_CERTIFICATE)
  let now = 1_700_000_000_000
  const mirror = await startMirror(t, upstream, {
    root: ownFolder(t),
    upstream: { ca },
    certificatesPollMs: 20,
    now: () => now,
  })
  const get = async (tag: string): Promise<number> => {
    now += 400_000
    return (await pull(`${mirror.url}/v2/app/manifests/${tag}`)).status
  }
  const said = (words: RegExp): number =>
    mirror.lines.filter(({ msg }) => typeof msg === 'string' && words.test(msg)).length
  t.equal(await get('1'), 503)
  put(TEST_CERTIFICATE)
  await eventually('it is believed', async () => (await get('1')) === 200)
  t.equal(said(/were read again/), 1)
  put('no certificate')
  await eventually('that is told', () => said(/cannot be used/) === 1)
  rmSync(ca)
  await eventually('that is told', () => said(/cannot be read again/) === 1)
  t.equal(await get('2'), 200, 'those before stay')
  put(OTHER_HOSTS_CERTIFICATE)
  await eventually('it is not believed any more', async () => (await get('3')) === 503)
  t.same([said(/cannot be used/), said(/cannot be read again/), said(/were read again/)], [1, 1, 2])
})
