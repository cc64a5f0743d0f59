import { test } from 'tap'
import { missingAsRoot } from '../support/programs.ts'
import { Containerd } from './daemons.ts'
import { Harbour, HARBOUR } from './harbour.ts'

const needs = missingAsRoot(...HARBOUR, 'containerd', 'ctr')

test('containerd pulls by hosts.toml, with the registry and without', { skip: needs }, async (t) => {
  const harbour = await Harbour.open(t)
  const containerd = await Containerd.start(t)

  await t.test('with ?ns=', async (t) => {
    const entrepot = await harbour.mirror(t)
    const hosts = `server = "${entrepot.url}"\n[host."${entrepot.url}"]\ncapabilities = ["pull", "resolve"]\n`
    // Without ?ns= these names would go to the default upstream.
    await harbour.pullTwice(t, entrepot, 'quay.io', async (image) => {
      await containerd.pull(`quay.io/${image}:1`, { _default: hosts })
    })
  })

  await t.test('with override_path', async (t) => {
    const entrepot = await harbour.mirror(t)
    // Nobody is at that server: what the mirror refuses is not had elsewhere.
    const hosts = `server = "http://127.0.0.1:1"
[host."${entrepot.url}/v2/quay.io"]
capabilities = ["pull", "resolve"]
override_path = true
`
    await harbour.pullTwice(t, entrepot, 'quay.io', async (image) => {
      await containerd.pull(`quay.io/${image}:1`, { 'quay.io': hosts })
    })
  })
})
