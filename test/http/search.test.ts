/** /v1/_ping and /v1/search: ours first, then Docker Hub's, and never a wait for its sake. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test, type Test } from 'tap'
import { eventually, pull, simulate, startMirror, type Mirror, type MirrorOptions } from '../support/app.ts'
import { image } from '../support/images.ts'
import { seedLocal } from '../support/local.ts'

interface Answer {
  readonly query: string
  readonly num_results: number
  readonly num_pages: number
  readonly page: number
  readonly page_size: number
  readonly results: readonly {
    name: string
    description: string
    star_count: number
    is_official: boolean
    is_automated: boolean
    is_trusted: boolean
  }[]
}

/** Docker Hub's search: answers with what `results` is, or does what `answer` does. */
interface Hub {
  readonly url: string
  readonly asked: URL[]
  readonly headers: IncomingMessage['headers'][]
  results: unknown[]
  answer: ((response: ServerResponse) => void) | undefined
}

async function startHub(t: Test): Promise<Hub> {
  const server = createServer((request, response) => {
    hub.asked.push(new URL(request.url ?? '', 'http://hub'))
    hub.headers.push(request.headers)
    if (hub.answer !== undefined) {
      hub.answer(response)
      return
    }
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ count: hub.results.length, next: '', previous: '', results: hub.results }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const hub: Hub = {
    url: `http://127.0.0.1:${port}`,
    asked: [],
    headers: [],
    results: [],
    answer: undefined,
  }
  return hub
}

function hubResult(name: string, stars: number, official = false): Record<string, unknown> {
  return {
    repo_name: name,
    short_description: `about ${name}`,
    star_count: stars,
    pull_count: 12_981_954_060,
    repo_owner: '',
    is_automated: false,
    is_official: official,
  }
}

async function search(mirror: Pick<Mirror, 'url'>, query: string): Promise<Answer> {
  const answer = await pull(`${mirror.url}/v1/search?${query}`)
  if (answer.status !== 200) throw new Error(`${answer.status} ${answer.body.toString()}`)
  return JSON.parse(answer.body.toString()) as Answer
}

async function names(mirror: Pick<Mirror, 'url'>, query: string): Promise<string[]> {
  return (await search(mirror, query)).results.map(({ name }) => name)
}

/** Here are `team/proxy` and `nginx-tools`, pushed, and `docker.io/library/nginx`, cached. */
async function start(t: Test, options: MirrorOptions = {}): Promise<Mirror> {
  const root = t.testdir()
  await seedLocal(root, [
    { name: 'team/proxy', tags: { '1': image({ seed: 1 }) } },
    { name: 'nginx-tools', tags: { '1': image({ seed: 2 }) } },
  ])
  const upstream = await simulate(t)
  upstream.addImage('library/nginx', 'latest', image({ seed: 4 }))
  const mirror = await startMirror(t, upstream, { root, ...options })
  await pull(`${mirror.url}/v2/library/nginx/manifests/latest`)
  await eventually('it is cached', async () => {
    const catalog = await pull(`${mirror.url}/v2/_catalog`)
    return catalog.body.includes('docker.io/library/nginx')
  })
  return mirror
}

test('the ping says that whoever logs in does it here', async (t) => {
  const mirror = await startMirror(t, await simulate(t))
  const ping = await pull(`${mirror.url}/v1/_ping`)
  t.equal(ping.status, 200)
  t.equal(ping.headers['x-docker-registry-standalone'], 'true')
  t.same(JSON.parse(ping.body.toString()), {})
})

test('without Docker Hub behind us, what is here is found under names that can be pulled', async (t) => {
  const mirror = await start(t)
  const nothing = { description: '', star_count: 0, is_automated: false, is_trusted: false }
  const answer = await search(mirror, 'q=nginx&n=25')
  t.same(answer, {
    query: 'nginx',
    num_results: 2,
    num_pages: 1,
    page: 1,
    page_size: 25,
    results: [
      // The whole of a name goes before a part of one.
      { name: 'docker.io/library/nginx', ...nothing, is_official: true },
      { name: 'nginx-tools', ...nothing, is_official: false },
    ],
  })
  for (const { name } of answer.results) {
    t.equal((await pull(`${mirror.url}/v2/${name}/tags/list`)).status, 200, name)
  }
  t.same(await names(mirror, 'q=NGINX%20%20lib'), ['docker.io/library/nginx'], 'every word has to be there')
  t.same(await names(mirror, 'q=docker'), [], 'a registry is not what its images are about')
  t.same(await names(mirror, 'q=docker.io'), ['docker.io/library/nginx'], 'but may be asked for')
  t.same(await names(mirror, 'q=100%25'), [])
  t.same(await names(mirror, 'q='), ['docker.io/library/nginx', 'nginx-tools', 'team/proxy'], 'all of it')
})

test('results come in pages', async (t) => {
  const mirror = await start(t)
  const second = await search(mirror, 'q=&n=2&page=2')
  t.match(second, { num_results: 3, num_pages: 2, page: 2, page_size: 2 })
  t.same(
    second.results.map(({ name }) => name),
    ['team/proxy'],
  )
  t.same(await names(mirror, 'q=&n=2&page=9'), [])
  t.equal((await search(mirror, 'q=&n=0')).page_size, 25, 'none asked for is as many as usual')
  t.equal((await search(mirror, 'q=&n=5000')).page_size, 100)
  for (const query of ['q=x&n=-1', 'q=x&n=ten', 'q=x&page=1.5', 'q=x&n=']) {
    const refused = await pull(`${mirror.url}/v1/search?${query}`)
    t.equal(refused.status, 400, query)
    t.match(refused.body.toString(), 'PAGINATION_NUMBER_INVALID')
  }
})

test('what Docker Hub finds comes after what is here, and each once', async (t) => {
  const hub = await startHub(t)
  const mirror = await start(t, { hubSearchUrl: hub.url })
  hub.results = [
    hubResult('nginx', 21_268, true),
    hubResult('bitnami/nginx', 200),
    { ...hubResult('odd/nginx', 1.5), short_description: null, is_automated: true },
    { ...hubResult('evil/nginx', 1), short_description: 'a\u001b[2Jb\nc' },
    hubResult('Not A/Name', 5),
    { repo_name: 7 },
    'nonsense',
  ]
  const { results } = await search(mirror, 'q=nginx')
  t.same(
    results.map(({ name, star_count }) => [name, star_count]),
    [
      ['docker.io/library/nginx', 21_268],
      ['nginx-tools', 0],
      ['docker.io/bitnami/nginx', 200],
      ['docker.io/odd/nginx', 0],
      ['docker.io/evil/nginx', 1],
    ],
  )
  t.match(results[0], { description: 'about nginx', is_official: true })
  t.match(results[3], { description: '', is_automated: true })
  t.equal(results[4]?.description, 'a [2Jb c', 'nothing that a terminal obeys')
  const [asked] = hub.asked
  t.equal(asked?.pathname, '/v2/search/repositories/')
  t.same(Object.fromEntries(asked?.searchParams ?? []), { query: 'nginx', page: '1', page_size: '100' })
})

test('nobody is told a name that would be refused, or lead elsewhere', async (t) => {
  const hub = await startHub(t)
  hub.results = [hubResult('bitnami/nginx', 2), hubResult('secret/nginx', 3)]
  const before = await start(t)
  await before.close()
  const mirror = await startMirror(t, await simulate(t), {
    root: before.root,
    hubSearchUrl: hub.url,
    upstream: { allow: ['library/**', 'bitnami/**'], deny: ['library/nginx'] },
  })
  t.same(await names(mirror, 'q=nginx'), ['nginx-tools', 'docker.io/bitnami/nginx'])
})

test('what came from an upstream that is not configured any more is not told', async (t) => {
  const upstream = await simulate(t)
  upstream.addImage('some/nginx', '1', image())
  const before = await startMirror(t, upstream, {
    config: { upstreams: { 'quay.io': { url: upstream.url } } },
  })
  await pull(`${before.url}/v2/quay.io/some/nginx/manifests/1`)
  await eventually('it is found', async () => (await names(before, 'q=nginx')).length === 1)
  await before.close()
  const after = await startMirror(t, upstream, { root: before.root })
  t.same(await names(after, 'q=nginx'), [])
})

test('a term goes out once a minute, however many search for it', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const hub = await startHub(t)
  hub.results = [hubResult('bitnami/redis', 1)]
  const mirror = await startMirror(t, await simulate(t), { hubSearchUrl: hub.url, now: () => clock.now })
  const herd = await Promise.all(
    Array.from({ length: 20 }, (_, at) => names(mirror, `q=${at % 2 === 0 ? 'redis' : '%20ReDis'}&n=${at}`)),
  )
  t.ok(herd.every(([name]) => name === 'docker.io/bitnami/redis'))
  t.same(await names(mirror, 'q=redis&page=2'), [])
  t.equal(hub.asked.length, 1)
  clock.now += 59_000
  await search(mirror, 'q=redis')
  t.equal(hub.asked.length, 1)
  clock.now += 1001
  await search(mirror, 'q=redis')
  t.equal(hub.asked.length, 2)
})

test('when Docker Hub fails, what is here is found, and Docker Hub is left alone for a while', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const hub = await startHub(t)
  const mirror = await start(t, { hubSearchUrl: hub.url, now: () => clock.now })
  hub.results = [hubResult('bitnami/nginx', 2)]
  t.equal((await names(mirror, 'q=nginx')).length, 3)

  const failures: ((response: ServerResponse) => void)[] = [
    (response) => response.writeHead(500).end('<html>'),
    (response) => response.writeHead(301, { location: 'http://127.0.0.1:1/' }).end(),
    (response) => response.end('<html>sign in</html>'),
    (response) => response.end('{"results":{}}'),
    (response) => response.end(`{"results":["${'x'.repeat(2 ** 21)}"]}`),
    (response) => response.destroy(),
  ]
  for (const [at, failure] of failures.entries()) {
    clock.now += 60_001
    hub.answer = failure
    const asked = hub.asked.length
    t.equal((await names(mirror, 'q=nginx')).length, 3, 'what was found before still is')
    t.same(
      await names(mirror, `q=tools&page=1&n=${at + 1}`),
      ['nginx-tools'],
      'another term is not tried now',
    )
    t.equal(hub.asked.length, asked + 1)
  }

  clock.now += 60_001
  hub.answer = (response) => response.writeHead(429, { 'retry-after': '120' }).end()
  const asked = hub.asked.length
  await search(mirror, 'q=proxy')
  clock.now += 119_000
  await search(mirror, 'q=nginx')
  t.equal(hub.asked.length, asked + 1, 'it said when to come back')
  hub.answer = undefined
  clock.now += 1001
  await search(mirror, 'q=nginx')
  t.equal(hub.asked.length, asked + 2)
})

test('a search does not wait for a Docker Hub that takes its time', async (t) => {
  const hub = await startHub(t)
  hub.answer = (response) => {
    // Always something, and never an end.
    const trickle = setInterval(() => response.write(' '), 20)
    response.once('close', () => clearInterval(trickle))
  }
  const mirror = await start(t, { hubSearchUrl: hub.url })
  t.same(await names(mirror, 'q=nginx'), ['docker.io/library/nginx', 'nginx-tools'])
  t.equal(hub.asked.length, 1)
})

test('Docker Hub is shown no credentials, neither ours nor the client’s', async (t) => {
  const hub = await startHub(t)
  const mirror = await startMirror(t, await simulate(t), {
    hubSearchUrl: hub.url,
    upstream: { username: 'someone', password: 'secret' },
  })
  await pull(`${mirror.url}/v1/search?q=x`, { authorization: 'Basic c29tZW9uZTpzZWNyZXQ=', cookie: 'a=b' })
  t.equal(hub.headers.length, 1)
  t.notOk(hub.headers[0]?.authorization)
  t.notOk(hub.headers[0]?.cookie)
})

test('nobody is asked where there is no Docker Hub, or no network', async (t) => {
  const hub = await startHub(t)
  const upstream = await simulate(t)
  const offline = await startMirror(t, upstream, { hubSearchUrl: hub.url, cache: { offline: true } })
  t.same(await names(offline, 'q=nginx'), [])
  const alone = await startMirror(t, upstream, { hubSearchUrl: hub.url, upstream: { offline: true } })
  t.same(await names(alone, 'q=nginx'), [])
  const other = await startMirror(t, upstream, {
    hubSearchUrl: hub.url,
    config: { upstreams: { 'quay.io': { url: upstream.url, default: true } } },
  })
  t.same(await names(other, 'q=nginx'), [])
  t.equal(hub.asked.length, 0)
})
