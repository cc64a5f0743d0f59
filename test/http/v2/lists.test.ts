/** tags/list and referrers: pages of other registries on our own paths. */
import { test } from 'tap'
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import { OciError } from '../../../src/oci/errors.ts'
import { call, serveFake } from '../../support/http-fakes.ts'

const digest = digestOf(Buffer.from('subject'))

test('tags come under the name the client used, and the next page on our path', async (t) => {
  const { url, repository } = await serveFake(t)
  repository.tagsAnswer = {
    tags: ['1.0', 'latest'],
    next: new URLSearchParams({ next_page: 'gAAA=/+', n: '2', ns: 'other' }),
    cache: 'miss',
  }
  const reply = await call(`${url}/v2/docker.io/alpine/tags/list?n=2&ns=quay.io%3A5000&x=y`)
  t.equal(reply.status, 200)
  t.same(JSON.parse(reply.body.toString()), { name: 'docker.io/alpine', tags: ['1.0', 'latest'] })
  t.match(reply.headers, {
    'content-type': 'application/json',
    'x-cache': 'miss',
    'oci-namespace': 'quay.io:5000',
  })
  t.equal(
    reply.headers['link'],
    '</v2/docker.io/alpine/tags/list?next_page=gAAA%3D%2F%2B&n=2&ns=quay.io%3A5000>; rel="next"',
  )
  t.same(repository.queries, ['n=2&x=y'], 'the namespace is ours, the rest is handed on')

  repository.tagsAnswer = { tags: [], next: undefined, cache: 'hit' }
  const last = await call(`${url}/v2/alpine/tags/list`)
  t.equal(last.body.toString(), '{"name":"alpine","tags":[]}')
  t.equal(last.headers['link'], undefined)
})

test('a bad page number is refused before anybody is asked', async (t) => {
  const { url, registry, repository } = await serveFake(t)
  for (const n of ['-1', 'x', '1e9', '']) {
    const reply = await call(`${url}/v2/alpine/tags/list?n=${n}`)
    t.equal(reply.status, 400, n)
    t.equal(reply.code, 'PAGINATION_NUMBER_INVALID')
  }
  t.same([registry.calls, repository.calls], [[], []])
})

test('tags of what is not there are an unknown name, and an error is never an empty list', async (t) => {
  const { url, repository } = await serveFake(t)
  t.equal((await call(`${url}/v2/alpine/tags/list`)).code, 'NAME_UNKNOWN')
  repository.error = new OciError('UNAVAILABLE')
  t.equal((await call(`${url}/v2/alpine/tags/list`)).status, 503)
  t.equal((await call(`${url}/v2/alpine/referrers/${digest}`)).status, 503)
})

test('referrers are an index, verbatim', async (t) => {
  const { url, repository } = await serveFake(t)
  const bytes = Buffer.from('{"schemaVersion":2,\n "manifests":[]}')
  repository.referrersAnswer = {
    bytes,
    filtersApplied: 'artifactType',
    next: new URLSearchParams({ token: '<>"' }),
    cache: 'miss',
  }
  const path = `${url}/v2/library/alpine/referrers/${digest}?artifactType=a%2Fb`
  const reply = await call(path)
  t.equal(reply.status, 200)
  t.same(reply.body, bytes)
  t.match(reply.headers, {
    'content-type': MEDIA_TYPES.ociIndex,
    'oci-filters-applied': 'artifactType',
    'content-length': String(bytes.length),
    'x-cache': 'miss',
  })
  t.equal(reply.headers['link'], `</v2/library/alpine/referrers/${digest}?token=%3C%3E%22>; rel="next"`)
  t.same(repository.queries, ['artifactType=a%2Fb'])
  const head = await call(path, { method: 'HEAD' })
  t.equal(head.body.length, 0)
  t.equal(head.headers['content-length'], String(bytes.length))

  repository.referrersAnswer = undefined
  const none = await call(path)
  t.equal(none.status, 404)
  t.equal(none.code, 'NOT_FOUND')
})
