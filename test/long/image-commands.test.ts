/** explain, ls, refresh and rm as real processes, beside a running server and without one. */
import { test } from 'tap'
import { eventually, pull, simulate } from '../support/app.ts'
import { image } from '../support/images.ts'
import { Entrepot, entrepot } from '../support/process.ts'

test('one image, from its first pull to its end', async (t) => {
  const upstream = await simulate(t)
  const app = image({ seed: 'app', layers: [4000] })
  const next = image({ seed: 'next', layers: [5000] })
  upstream.addImage('library/app', '1', app)
  const config = { upstreams: { 'docker.io': { url: upstream.url, default: true } } }
  const options = { dir: t.testdir(), config }
  const command = (...words: string[]) => entrepot(options, ...words)
  const server = await Entrepot.start(t, options)
  for (const what of ['manifests/1', ...app.blobs.map(({ digest }) => `blobs/${digest}`)]) {
    const url = `${server.url}/v2/app/${what}`
    t.equal((await pull(url)).status, 200)
    await eventually(`${what} is written down`, async () => (await pull(url)).cache === 'hit')
  }
  t.match(await command('ls', 'docker.io/library/'), {
    code: 0,
    stdout: /^docker\.io\/library\/app:1\tsha256:[0-9a-f]{64}\t\d+\t\d+\t\d+\tcached\n$/,
  })
  upstream.moveTag('library/app', '1', next)
  t.match(await command('refresh', 'app:1'), {
    code: 0,
    stdout: /^docker\.io\/library\/app:1: moved from .*\n {2}fetched 3 files/,
  })
  t.match(await command('explain', '--json', '--ns', 'docker.io', 'app:1'), {
    code: 0,
    stdout: /"outcome": "(?:hit|head)"/,
  })
  await server.program.stop()

  t.match(await command('explain', 'app:1'), { code: 0, stdout: /config and layers are here/ })
  t.match(await command('rm', 'app:1'), {
    code: 0,
    stdout: /^removed docker\.io\/library\/app:1; freed 5\.\d+ KiB\n$/,
  })
  t.match(await command('explain'), { code: 2, stderr: /missing required argument/ })
})
