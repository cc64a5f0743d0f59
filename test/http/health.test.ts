/** /, /livez, /readyz, /metrics. */
import { test } from 'tap'
import { call, serveFake } from '../support/http-fakes.ts'

test('the root answers 200 to a balancer, whichever way it asks', async (t) => {
  const { url } = await serveFake(t)
  for (const method of ['GET', 'HEAD', 'OPTIONS'] as const) {
    const reply = await call(`${url}/`, { method })
    t.equal(reply.status, 200, method)
    t.equal(reply.headers['docker-distribution-api-version'], undefined)
  }
  t.equal((await call(`${url}/`, { method: 'OPTIONS' })).headers.allow, 'GET, HEAD, OPTIONS')
  t.equal((await call(`${url}/`, { method: 'POST' })).status, 405)
})

test('livez says that the process serves', async (t) => {
  const { url, line } = await serveFake(t)
  const reply = await call(`${url}/livez`)
  t.equal(reply.status, 200)
  t.same(JSON.parse(reply.body.toString()), { status: 'ok' })
  t.equal(reply.headers['docker-distribution-api-version'], undefined)
  t.match(await line(0), { level: 20, route: 'livez' }, 'probes do not fill the log')
})

test('readyz names what is wrong and stays ready', async (t) => {
  const { url, registry } = await serveFake(t)
  const well = await call(`${url}/readyz`)
  t.equal(well.status, 200)
  t.equal(well.body.toString(), JSON.stringify({ status: 'ok', ...registry.state }))
  registry.state = {
    upstreams: [{ key: 'docker.io', state: 'denied', message: 'credentials were refused' }],
    storage: 'bypassed',
    openFiles: 'ok',
    quarantine: { count: 0, blobs: [] },
  }
  const ill = await call(`${url}/readyz`)
  t.equal(ill.status, 200)
  t.same(JSON.parse(ill.body.toString()), { status: 'degraded', ...registry.state })
  t.equal(
    (await call(`${url}/readyz`, { method: 'HEAD' })).headers['content-length'],
    String(ill.body.length),
  )
})

test('metrics are what Prometheus reads', async (t) => {
  const { url, metrics, line } = await serveFake(t)
  await call(`${url}/v2/`)
  await call(`${url}/v2/A/tags/list`)
  await line(1)
  const reply = await call(`${url}/metrics`)
  t.equal(reply.headers['content-type'], metrics.registry.contentType)
  t.match(reply.body.toString(), /duration_seconds_count\{method="GET",route="base",code="200"\} 1\n/)
  t.match(reply.body.toString(), /duration_seconds_count\{method="GET",route="none",code="400"\} 1\n/)
})

test('an error keeps to the log: a path only where no repository is known, never a query', async (t) => {
  const { url, line } = await serveFake(t)
  await call(`${url}/nowhere?token=secret`)
  const logged = await line(0)
  t.match(logged, { level: 30, msg: 'refused', code: 'NOT_FOUND', path: '/nowhere', status: 404 })
  t.notMatch(JSON.stringify(logged), 'secret')
  await call(`${url}/${'x'.repeat(8000)}`)
  t.equal(String((await line(1))['path']).length, 200)
})
