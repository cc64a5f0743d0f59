/** GET and HEAD /_entrepot/explain, as HTTP. */
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'tap'
import { request } from 'undici'
import { eventually, pull, simulate, startMirror } from '../../support/app.ts'
import { image } from '../../support/images.ts'

test('what cannot be explained is an error like any other; all else is JSON of this moment', async (t) => {
  const upstream = await simulate(t)
  const app = image({ seed: 'app' })
  upstream.addImage('library/app', '1', app)
  const mirror = await startMirror(t, upstream, { cache: { prefetch: 'off' } })
  const url = (query: string): string => `${mirror.url}/_entrepot/explain?${query}`

  for (const [query, code] of [
    ['', 'BAD_REQUEST'],
    ['ref=', 'NAME_INVALID'],
    ['ref=Team/app', 'NAME_INVALID'],
    ['ref=app:', 'TAG_INVALID'],
    ['ref=app@sha256:12', 'DIGEST_INVALID'],
    ['ref=app:x@md5:12', 'DIGEST_INVALID'],
    [`ref=${'a'.repeat(300)}`, 'NAME_INVALID'],
  ] as const) {
    const { status, body, headers } = await pull(url(query))
    t.match(JSON.parse(body.toString()), { errors: [{ code }] }, query)
    t.equal(status, 400)
    t.equal(headers['content-type'], 'application/json')
  }
  const posted = await request(url('ref=app'), { method: 'POST' })
  t.same([posted.statusCode, posted.headers['allow']], [405, 'GET, HEAD'])
  await posted.body.dump()

  await pull(`${mirror.url}/v2/app/manifests/1`)
  await eventually('it is here', async () => (await pull(url('ref=app:1'))).body.includes('"held":true'))
  const got = await pull(url('ref=app:1'))
  t.match(got, {
    status: 200,
    headers: { 'content-type': 'application/json', 'cache-control': 'no-store', 'x-request-id': String },
  })
  t.notOk('docker-distribution-api-version' in got.headers)
  const head = await pull(url('ref=app:1'), {}, 'HEAD')
  t.equal(head.status, 200)
  t.equal(head.body.length, 0)
  const hops = ['connection', 'keep-alive']
  const told = (headers: object): string[] =>
    Object.keys(headers)
      .sort()
      .filter((it) => !hops.includes(it))
  t.same(told(head.headers), told(got.headers))
  t.match(JSON.parse((await pull(url('ref=app'))).body.toString()), {
    ref: { name: 'app', reference: 'latest' },
  })
  const both = await pull(url(`ref=docker.io/library/app:9@${app.manifest.digest}&ns=docker.io`))
  t.match(JSON.parse(both.body.toString()), {
    ref: { reference: app.manifest.digest, namespace: 'docker.io' },
    route: { rule: 'ns', repository: 'library/app' },
    image: { held: true },
  })
  const line = mirror.lines.findLast(({ route }) => route === 'explain')
  t.match(line, {
    repo: 'docker.io/library/app',
    ref: app.manifest.digest,
    upstream: 'docker.io',
    status: 200,
  })
})

test('who asks changes nothing, not even when it was last pulled', async (t) => {
  const upstream = await simulate(t)
  const app = image({ seed: 'app', layers: [500] })
  upstream.addImage('library/app', '1', app)
  const clock = { now: 1_700_000_000_000 }
  const mirror = await startMirror(t, upstream, { cache: { prefetch: 'off' }, now: () => clock.now })
  const get = (what: string) => pull(`${mirror.url}/v2/app/${what}`)
  await get('manifests/1')
  for (const { digest } of app.blobs) await get(`blobs/${digest}`)
  const explained = async () => {
    const { body } = await pull(`${mirror.url}/_entrepot/explain?ref=app:1`)
    return JSON.parse(body.toString()) as {
      image?: { pulledMsAgo?: number; totals: { missingParts: number } }
    }
  }
  await eventually('all of it is here', async () => (await explained()).image?.totals.missingParts === 0)
  const before = upstream.log.count()
  for (const hours of [1, 2, 3]) {
    clock.now += 3_600_000
    t.equal((await explained()).image?.pulledMsAgo, hours * 3_600_000)
  }
  t.equal(upstream.log.count(), before)
  await mirror.close()
  const database = new DatabaseSync(join(mirror.root, 'metadata.sqlite'), { readOnly: true })
  t.teardown(() => database.close())
  const { latest } = database.prepare('select max(pulled_at) as latest from blob').get() as { latest: number }
  t.ok(latest < clock.now, 'nor was anything written down at the end')
})
