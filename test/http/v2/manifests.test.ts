/** GET and HEAD of manifests. */
import { test } from 'tap'
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import { OciError } from '../../../src/oci/errors.ts'
import { call, serveFake } from '../../support/http-fakes.ts'

const BYTES = Buffer.from('{ "schemaVersion": 2,\t"x": "\\u00e4" }\n')

test('a manifest goes out byte for byte, with exactly its type', async (t) => {
  const { url, repository, registry } = await serveFake(t)
  const digest = repository.addManifest('1.0', BYTES, { mediaType: MEDIA_TYPES.dockerManifest })
  for (const reference of ['1.0', digest, digest.replace(':', '%3A')]) {
    const reply = await call(`${url}/v2/library/alpine/manifests/${reference}`, {
      headers: { Accept: 'text/html' },
    })
    t.equal(reply.status, 200)
    t.same(reply.body, BYTES)
    t.match(reply.headers, {
      'content-type': MEDIA_TYPES.dockerManifest,
      'content-length': String(BYTES.length),
      'docker-content-digest': digest,
      etag: `"${digest}"`,
      'x-cache': 'hit',
      'docker-distribution-api-version': 'registry/2.0',
    })
    t.equal(reply.headers['oci-namespace'], undefined)
    t.equal(reply.headers.warning, undefined)
  }
  t.same(registry.calls[0], 'resolve library/alpine undefined')
})

test('HEAD has the headers of GET and no body', async (t) => {
  const { url, repository } = await serveFake(t)
  repository.addManifest('1.0', BYTES, { cache: 'stale', warning: 'upstream "down"\r\nx' })
  const path = `${url}/v2/library/alpine/manifests/1.0?ns=docker.io`
  const get = await call(path)
  const head = await call(path, { method: 'HEAD' })
  t.equal(head.body.length, 0)
  const without = (headers: object): object => ({ ...headers, date: '', 'x-request-id': '' })
  t.same(without(head.headers), without(get.headers))
  t.equal(get.headers['x-cache'], 'stale')
  t.equal(get.headers.warning, `299 - "upstream 'down'  x"`)
  t.equal(get.headers['oci-namespace'], 'docker.io')
  t.same(repository.calls, ['manifest 1.0', 'headManifest 1.0'])
})

test('who has it already gets 304', async (t) => {
  const { url, repository } = await serveFake(t)
  const digest = repository.addManifest('1.0', BYTES)
  const path = `${url}/v2/library/alpine/manifests/1.0`
  for (const method of ['GET', 'HEAD']) {
    for (const tag of [`"${digest}"`, digest, `W/"${digest}"`, '*']) {
      const reply = await call(path, { method, headers: { 'If-None-Match': tag } })
      t.equal(reply.status, 304, `${method} ${tag}`)
      t.equal(reply.body.length, 0)
      t.match(reply.headers, { etag: `"${digest}"`, 'docker-content-digest': digest, 'x-cache': 'hit' })
    }
  }
  t.equal((await call(path, { headers: { 'If-None-Match': '"sha256:x"' } })).status, 200)
})

test('what is not there is unknown, by the name that was asked for', async (t) => {
  const { url } = await serveFake(t)
  const reply = await call(`${url}/v2/library/alpine/manifests/none`)
  t.equal(reply.status, 404)
  t.equal(reply.code, 'MANIFEST_UNKNOWN')
  t.match(reply.body.toString(), 'library/alpine')
  const head = await call(`${url}/v2/library/alpine/manifests/none`, { method: 'HEAD' })
  t.equal(head.status, 404)
  t.equal(head.body.length, 0)
  t.equal(head.headers['content-length'], reply.headers['content-length'])
  t.equal((await call(`${url}/v2/no/where/manifests/x`)).code, 'NAME_UNKNOWN')
  t.equal((await call(`${url}/v2/a/manifests/x?ns=unknown`)).code, 'NAME_UNKNOWN')
})

test('an error of the table is told as it is, and nothing else ever is', async (t) => {
  const { url, repository, line } = await serveFake(t)
  repository.error = new OciError(
    'UNAVAILABLE',
    { upstream: 'docker.io' },
    { retryAfterSeconds: 9.2, cause: new Error('secret') },
  )
  const told = await call(`${url}/v2/a/manifests/x`)
  t.equal(told.status, 503)
  t.equal(told.code, 'UNAVAILABLE')
  t.equal(told.headers['retry-after'], '10')
  t.equal(told.headers['content-type'], 'application/json')
  t.notMatch(told.body.toString(), 'secret')
  t.match(await line(0), {
    level: 40,
    msg: 'failed',
    code: 'UNAVAILABLE',
    status: 503,
    causes: ['secret'],
  })

  repository.error = new TypeError('a bug in /some/path')
  const bug = await call(`${url}/v2/a/manifests/x`)
  t.equal(bug.status, 500)
  t.equal(bug.code, 'UNKNOWN')
  t.notMatch(bug.body.toString(), 'path')
  t.match(await line(1), { level: 50, status: 500, err: { type: 'TypeError', stack: /a bug in/ } })
})

test('a header that cannot be sent becomes an error without leftovers', async (t) => {
  const { url, repository } = await serveFake(t)
  repository.addManifest('odd', BYTES, { mediaType: 'a/b\r\nx: y' })
  const reply = await call(`${url}/v2/a/manifests/odd`)
  t.equal(reply.status, 500)
  t.equal(reply.code, 'UNKNOWN')
  for (const name of ['x', 'etag', 'docker-content-digest', 'x-cache'])
    t.equal(reply.headers[name], undefined, name)
})

test('a pull is counted and logged with what it was', async (t) => {
  const { url, repository, metrics, line } = await serveFake(t)
  const digest = repository.addManifest('1.0', BYTES, { cache: 'miss' })
  const headers = { 'X-Request-Id': 'abc-1', Authorization: 'Basic c2VjcmV0' }
  await call(`${url}/v2/library/alpine/manifests/1.0?ns=x`, { headers })
  await call(`${url}/v2/library/alpine/manifests/1.0`, { method: 'HEAD' })
  const logged = await line(0)
  t.match(logged, {
    level: 30,
    msg: 'served',
    reqId: 'abc-1',
    method: 'GET',
    route: 'manifest',
    repo: 'library/alpine',
    ref: '1.0',
    digest,
    upstream: 'docker.io',
    cache: 'miss',
    status: 200,
    bytes: BYTES.length,
    durationMs: Number,
  })
  t.notMatch(JSON.stringify(logged), /c2VjcmV0|authorization/i)
  t.match(await line(1), { method: 'HEAD', bytes: 0, status: 200 })
  const text = await metrics.registry.metrics()
  t.match(text, /entrepot_pulls_total\{upstream="docker.io",kind="manifest",cache="miss"\} 1\n/)
  t.match(text, new RegExp(`entrepot_served_bytes_total\\{kind="manifest",cache="miss"\\} ${BYTES.length}\n`))
  t.match(
    text,
    /entrepot_http_request_duration_seconds_count\{method="GET",route="manifest",code="200"\} 1\n/,
  )
})
