/** What a HEAD is told while upstream cannot say, where it may be the beginning of a push that will be refused. */
import { test, type Test } from 'tap'
import { eventually, pull, settled } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import {
  codeOf,
  messageOf,
  startTwoUpstreams,
  type TwoUpstreamsOptions,
} from '../../support/two-upstreams.ts'

const fresh = image({ layers: [200], seed: 'about to be pushed' })
const BLOB = `blobs/${fresh.layers[0]!.digest}`

interface Down extends Awaited<ReturnType<typeof startTwoUpstreams>> {
  readonly ask: (path: string, headers?: Record<string, string>) => Promise<{ status: number; told: unknown }>
}

/** Neither upstream can be reached. */
async function startAlone(t: Test, options: TwoUpstreamsOptions = {}): Promise<Down> {
  const two = await startTwoUpstreams(t, { cache: { prefetch: 'off' }, ...options })
  await two.hub.stop()
  await two.quay.stop()
  const base = two.mirror.url.replace('0.0.0.0', '127.0.0.1')
  const ask: Down['ask'] = async (path, headers = {}) => {
    const { status, headers: told } = await pull(`${base}/v2/${path}`, headers, 'HEAD')
    return { status, told: told['warning'] }
  }
  return { ...two, ask }
}

test('who asks for a blob that nothing here names is told by which rule its push is refused', async (t) => {
  const { ask } = await startAlone(t, { quay: { aliases: ['quay.example'] } })
  for (const [name, query, words] of [
    ['quay.io/team/new', '', /quay\.io\/ makes it a name of quay\.io, .* such as team\/app, works/],
    ['quay.example/team/new', '', /quay\.example\/ makes it a name of quay\.io/],
    ['docker.io/new', '', /docker\.io\/ makes it a name of docker\.io/],
    ['team/new', '?ns=quay.io', /ns=quay\.io makes it a name of quay\.io/],
    ['library/new', '', /push\.deny reserves library\/\*\*/],
  ] as const) {
    const { status, told } = await ask(`${name}/${BLOB}${query}`)
    t.equal(status, 403, name)
    // An answer to HEAD has no body to say it in.
    t.match(told, /^299 - "[^"]+"$/)
    t.match(told, words)
    for (const reference of ['1', fresh.manifest.digest]) {
      const { status } = await ask(`${name}/manifests/${reference}${query}`)
      t.equal(status, 503, 'a manifest is asked for by pulls as well')
    }
  }
})

test('a name that was pulled from the default upstream says so', async (t) => {
  const { hub, get, head } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  hub.addImage('team/app', '1', image({ layers: [100], seed: 'theirs' }))
  t.equal((await get('team/app/manifests/1')).status, 200)
  // It is answered before it is written down.
  await eventually('it is cached', async () => (await get('team/app/manifests/1')).cache === 'hit')
  await hub.stop()
  const { status, headers } = await head(`team/app/${BLOB}`)
  t.equal(status, 403)
  t.match(headers['warning'], /team\/app was pulled from docker\.io through here/)
})

test('where upstream denies us, the push is told what would help it', async (t) => {
  const { quay, head } = await startTwoUpstreams(t)
  quay.fault({ kind: ['manifest', 'blob'] }, { status: 403 })
  const { status, headers } = await head(`quay.io/team/new/${BLOB}`)
  t.equal(status, 403)
  t.match(headers['warning'], /quay\.io\/ makes it a name of quay\.io/)
  t.match((await head('quay.io/team/new/manifests/1')).headers['warning'], /quay\.io denied access/)
})

test('on the network, where no new name can be pushed, a HEAD is no beginning of a push', async (t) => {
  const config = { server: { port: 0, host: '0.0.0.0' }, local: ['ours/**'] }
  const { ask } = await startAlone(t, { config: { ...config, push: { anonymous: true } } })
  t.equal((await ask('team/new/manifests/1')).status, 503)
  const blob = await ask(`team/new/${BLOB}`)
  t.equal(blob.status, 403)
  t.match(blob.told, /only names of `local` take pushes; a name that matches ours\/\*\* works/)
  t.equal((await ask(`ours/new/${BLOB}`)).status, 404, 'a name that is ours can')
})

test('whoever must not push begins none', async (t) => {
  const { ask } = await startAlone(t)
  const proxied = { 'x-forwarded-for': '192.0.2.1' }
  t.equal((await ask('team/new/manifests/1', proxied)).status, 503)
  const blob = await ask(`team/new/${BLOB}`, proxied)
  t.equal(blob.status, 403)
  t.match(blob.told, /push\.anonymous: true opens them/)
  t.equal((await ask(`team/new/${BLOB}`)).status, 404, 'somebody else may')
})

test('a first push begins also where the configuration keeps the name from being pulled', async (t) => {
  const { ask, get } = await startAlone(t, { hub: { allow: ['library/**'] } })
  for (const path of [BLOB, 'manifests/1']) {
    t.equal((await ask(`team/new/${path}`)).status, 404)
    const pulled = await get(`team/new/${path}`)
    t.same([pulled.status, codeOf(pulled)], [403, 'DENIED'], 'a pull is told that')
    t.equal((await ask(`docker.io/team/new/${path}`)).status, 403, 'and so is who can push nothing there')
  }
})

test('a HEAD of a blob that was pulled, or that a manifest here names, is the HEAD of a pull', async (t) => {
  const { quay, get, head, mirror } = await startTwoUpstreams(t, { cache: { prefetch: 'off' } })
  const theirs = image({
    layers: [300, { size: 10, seed: 'elsewhere', urls: ['https://elsewhere.example/layer'] }],
    seed: 'theirs',
  })
  quay.addImage('team/app', '1', theirs)
  t.equal((await get('quay.io/team/app/manifests/1')).status, 200)
  await settled(mirror)
  await quay.stop()
  const [here, elsewhere] = theirs.layers
  t.equal((await head(`quay.io/team/app/blobs/${here!.digest}`)).status, 200)
  const { status, headers } = await head(`quay.io/team/app/blobs/${elsewhere!.digest}`)
  t.equal(status, 503, 'it may come back')
  t.equal(headers['warning'], undefined)
  t.equal(
    (await head(`quay.io/team/other/blobs/${here!.digest}`)).status,
    403,
    'named elsewhere is not named',
  )
})

test('a GET is a pull whatever it asks for', async (t) => {
  const { mirror } = await startAlone(t)
  for (const headers of [{}, { 'if-none-match': `"${fresh.layers[0]!.digest}"` }]) {
    const answer = await pull(`${mirror.url}/v2/quay.io/team/new/${BLOB}`, headers)
    t.equal(answer.status, 503)
    t.match(messageOf(answer), /quay\.io cannot be reached/)
  }
})
