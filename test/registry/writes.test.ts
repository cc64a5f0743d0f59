/** Writes are refused in words that say why, and leave no trace. */
import { readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { request } from 'undici'
import { test } from 'tap'
import { image } from '../support/images.ts'
import { codeOf, messageOf, startTwoUpstreams } from '../support/two-upstreams.ts'

const pushed = image({ layers: [100], seed: 'pushed' })
const { digest } = pushed.layers[0]!

/** Every way of writing to a name. */
const WRITES = [
  ['POST', 'blobs/uploads/'],
  ['POST', 'blobs/uploads'],
  ['POST', `blobs/uploads/?digest=${digest}`],
  ['POST', `blobs/uploads/?mount=${digest}&from=team/app`],
  ['PATCH', 'blobs/uploads/a.b'],
  ['PUT', `blobs/uploads/a.b?digest=${digest}`],
  ['GET', 'blobs/uploads/a.b'],
  ['DELETE', 'blobs/uploads/a.b'],
  ['PUT', 'manifests/1'],
  ['PUT', `manifests/${pushed.manifest.digest}`],
  ['DELETE', 'manifests/1'],
  ['DELETE', `manifests/${pushed.manifest.digest}`],
  ['DELETE', `blobs/${digest}`],
] as const

async function write(url: string, method: (typeof WRITES)[number][0]) {
  const body = method === 'PUT' || method === 'PATCH' ? pushed.manifest.bytes : null
  const answer = await request(url, { method, body })
  return {
    status: answer.statusCode,
    headers: answer.headers,
    body: Buffer.from(await answer.body.arrayBuffer()),
  }
}

function withNs(base: string, part: string, ns: string | undefined): string {
  return ns === undefined ? `${base}/${part}` : `${base}/${part}${part.includes('?') ? '&' : '?'}ns=${ns}`
}

/** All files below the root, without those of the database, whose log may be written at any time. */
function filesIn(root: string): string[] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => !name.startsWith('metadata.sqlite') && statSync(path.join(root, name)).isFile())
    .sort()
}

test('a name that an upstream owns is refused, and the message says whose it is', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t, { quay: { aliases: ['quay.example'] } })
  const before = filesIn(mirror.root)
  for (const [name, ns, rule, owner] of [
    ['quay.io/team/app', undefined, 'quay.io/', 'quay.io'],
    ['quay.example/team/app', undefined, 'quay.example/', 'quay.io'],
    ['index.docker.io/app', undefined, 'index.docker.io/', 'docker.io'],
    ['team/app', 'quay.example', 'ns=quay.example', 'quay.io'],
    ['app', 'docker.io', 'ns=docker.io', 'docker.io'],
  ] as const) {
    for (const [method, part] of WRITES) {
      const what = `${method} ${name}/${part} ${ns ?? ''}`
      const answer = await write(withNs(`${mirror.url}/v2/${name}`, part, ns), method)
      t.equal(answer.status, 403, what)
      t.equal(answer.headers['content-type'], 'application/json')
      t.equal(codeOf(answer), 'DENIED')
      t.match(messageOf(answer), rule)
      t.match(messageOf(answer), `of ${owner}`)
    }
  }
  t.same(filesIn(mirror.root), before)
  t.equal(asked(), 0)
})

test('push.deny refuses names that would be free otherwise', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t, {
    config: { push: { deny: ['library/**', 'reserved', 'prod-*/**'] } },
  })
  for (const name of ['library/app', 'reserved', 'prod-1/app']) {
    for (const [method, part] of WRITES) {
      const answer = await write(`${mirror.url}/v2/${name}/${part}`, method)
      t.equal(answer.status, 403, `${method} ${name}/${part}`)
      t.equal(codeOf(answer), 'DENIED')
      t.match(messageOf(answer), 'push.deny')
    }
  }
  t.equal(asked(), 0)
})

test('any other write is not supported yet', async (t) => {
  const { mirror, asked, get } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', tags: { '1': pushed } }],
    config: { local: ['ours/**'] },
  })
  const before = filesIn(mirror.root)
  for (const name of ['team/app', 'ours/new', 'new', 'some/thing']) {
    for (const [method, part] of WRITES) {
      const answer = await write(`${mirror.url}/v2/${name}/${part}`, method)
      t.equal(answer.status, 405, `${method} ${name}/${part}`)
      t.equal(answer.headers['content-type'], 'application/json')
      t.equal(codeOf(answer), 'UNSUPPORTED')
      t.not(messageOf(answer), '')
      // RFC 9110 § 15.5.6
      t.equal(answer.headers['allow'], part.startsWith('blobs/uploads') ? '' : 'GET, HEAD')
    }
  }
  t.equal((await get('team/app/manifests/1')).status, 200)
  t.equal((await get(`team/app/blobs/${digest}`)).status, 200)
  t.same(filesIn(mirror.root), before)
  t.equal(asked(), 0)
})

test('without a default upstream a free name is not supported either, rather than unknown', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t, { hub: { default: false } })
  for (const [method, part] of WRITES) {
    const answer = await write(`${mirror.url}/v2/new/app/${part}`, method)
    t.equal(answer.status, 405, `${method} ${part}`)
  }
  const denied = await write(`${mirror.url}/v2/library/app/manifests/1`, 'PUT')
  t.equal(denied.status, 403)
  t.equal(asked(), 0)
})

test('an unknown ns is an unknown name for writes, too', async (t) => {
  const { mirror, asked } = await startTwoUpstreams(t)
  for (const [method, part] of WRITES) {
    const answer = await write(withNs(`${mirror.url}/v2/team/app`, part, 'evil.example'), method)
    t.equal(answer.status, 404, `${method} ${part}`)
    t.equal(codeOf(answer), 'NAME_UNKNOWN')
  }
  t.equal(asked(), 0)
})
