/** GET and POST: which one a token service is asked by, and what it is told. */
import { test } from 'tap'
import { IDENTITY_TOKEN } from '../../../src/upstream/login/credentials.ts'
import { clientFor, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'
import type { RequestLog } from '../../support/upstream-log.ts'

const account = { username: '_json_key', password: '{\n  "private_key": "a:b\\nc",\n  "who": "ä"\n}\n' }
const identity = { username: IDENTITY_TOKEN, password: 'refresh/me+=' }
const token = { credentials: account, identityToken: identity.password, anonymous: false }
const scope = `repository:${NAME}:pull`

function tokensIn(log: RequestLog): string[] {
  return log.of('token').map(({ method, status }) => `${method} ${status}`)
}

void test('a password goes by GET, as most services like it best', async (t) => {
  const { client, upstream, signal } = await connect(t, { token }, { credentials: account })
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.same(tokensIn(upstream.log), ['GET 200'])
})

void test('tokenEndpoint: 404 or 405 to GET makes it a POST, which is remembered', async (t) => {
  for (const getStatus of [404, 405]) {
    const { client, upstream, signal } = await connect(
      t,
      { token, tokenEndpoint: { getStatus } },
      { credentials: account },
    )
    upstream.set({ token: { ...token, realm: `${upstream.authUrl}/token?tenant=1` } })
    t.ok(await client.manifest(NAME, LATEST, signal))
    upstream.tokens.revokeTokens()
    t.ok(await client.manifest(NAME, LATEST, signal))
    t.same(tokensIn(upstream.log), [`GET ${getStatus}`, 'POST 200', 'POST 200'])
    const post = upstream.log.of({ kind: 'token', method: 'POST' })[0]!
    t.equal(post.url, '/token?tenant=1')
    t.equal(post.headers.authorization, undefined)
    t.equal(post.headers['content-type'], 'application/x-www-form-urlencoded')
    t.same(Object.fromEntries(post.form ?? []), {
      grant_type: 'password',
      ...account,
      client_id: 'entrepot',
      access_type: 'online',
      service: 'simulator',
      scope,
    })
  }
})

void test('an identity token is exchanged by POST', async (t) => {
  const { client, upstream, signal } = await connect(t, { token }, { credentials: identity })
  t.ok(await client.manifest(NAME, LATEST, signal))
  t.same(tokensIn(upstream.log), ['POST 200'])
  t.same(Object.fromEntries(upstream.log.of('token')[0]?.form ?? []), {
    grant_type: 'refresh_token',
    refresh_token: identity.password,
    client_id: 'entrepot',
    access_type: 'online',
    service: 'simulator',
    scope,
  })
})

void test('tokenEndpoint: postStatus 400, 401, 404 or 405 makes it a GET, which is remembered', async (t) => {
  for (const postStatus of [400, 401, 404, 405]) {
    const { client, upstream, signal } = await connect(
      t,
      { token: { ...token, credentials: identity }, tokenEndpoint: { postStatus } },
      { credentials: identity },
    )
    t.ok(await client.manifest(NAME, LATEST, signal))
    upstream.tokens.revokeTokens()
    t.ok(await client.manifest(NAME, LATEST, signal))
    t.same(tokensIn(upstream.log), [`POST ${postStatus}`, 'GET 200', 'GET 200'])
  }
})

void test('a service that likes neither is asked by both, once', async (t) => {
  for (const [getStatus, postStatus, failure, status] of [
    [404, 404, 'broken', 404],
    // Whoever looked at the password is right about it.
    [405, 401, 'denied', 401],
  ] as const) {
    const { client, upstream, signal } = await connect(
      t,
      { token, tokenEndpoint: { getStatus, postStatus } },
      { credentials: account },
    )
    t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure, status })
    t.same(tokensIn(upstream.log), [`GET ${getStatus}`, `POST ${postStatus}`])
  }
  const { client, upstream, signal } = await connect(
    t,
    { token, tokenEndpoint: { getStatus: 404, postStatus: 401 } },
    { credentials: identity },
  )
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure: 'denied', status: 401 })
  t.same(tokensIn(upstream.log), ['POST 401', 'GET 404'])
})

void test('without credentials there is nothing to post', async (t) => {
  const { client, upstream, signal } = await connect(t, { token: {}, tokenEndpoint: { getStatus: 405 } })
  t.match(await failureOf(client.manifest(NAME, LATEST, signal)), { failure: 'broken', status: 405 })
  t.same(tokensIn(upstream.log), ['GET 405'])
})

void test('a redirect of the token service takes no credentials to another origin', async (t) => {
  const elsewhere = await connect(t, { token: { ...token, credentials: identity } })
  for (const credentials of [account, identity]) {
    for (const status of [301, 302, 303, 307, 308]) {
      const { upstream, signal } = await connect(t, { token })
      const location = `${elsewhere.upstream.authUrl}/token?scope=${scope}`
      upstream.fault({ kind: 'token' }, { status, headers: { location } })
      const client = clientFor(t, { url: upstream.url, credentials })
      const error = await failureOf(client.manifest(NAME, LATEST, signal))
      t.equal(error.failure, 'denied', `${status}`)
    }
  }
  const seen = elsewhere.upstream.log.of('token')
  t.ok(seen.length > 0)
  for (const { method, headers, form } of seen) {
    t.same([method, headers.authorization, form], ['GET', undefined, undefined])
  }
})

void test('what a token service says is passed on, but for what it was sent', async (t) => {
  const credentials = { username: 'robot', password: 'hunter2' }
  const { client, upstream, signal } = await connect(t, { token }, { credentials })
  for (const [body, expected] of [
    [{ details: 'incorrect username or password' }, /: incorrect username or password$/],
    [{ details: `no hunter2\u001b[31m\n${'x'.repeat(1000)}` }, /: no \[hidden\] \[31m x{150,300}$/],
    [{ details: 'account robot is locked' }, /: account \[hidden\] is locked$/],
    [{ errors: [{ code: 'DENIED', message: 'Unauthenticated request.' }] }, /: Unauthenticated request\.$/],
    [{ error: 'invalid_grant', error_description: 'it is over' }, /: it is over$/],
    [{ message: 'no' }, /: no$/],
    [{ details: { a: 1 }, errors: [null] }, /answered 401$/],
    [[], /answered 401$/],
    ['<html>', /answered 401$/],
  ] as const) {
    const rule = upstream.fault(
      { kind: 'token' },
      { status: 401, body: { text: JSON.stringify(body), type: 'application/json' } },
    )
    const error = await failureOf(client.manifest(NAME, LATEST, signal))
    t.match(error, { failure: 'denied', status: 401, message: expected })
    rule.remove()
  }
})

void test('tokenEndpoint: hang ends when an answer would, in the head and in the body', async (t) => {
  const timeouts = { connect: 200, headers: 200, idle: 60_000, minRate: 0 }
  for (const fault of [
    { hang: 'headers' },
    { slowloris: { in: 'head', everyMs: 20 } },
    { raw: { bytes: 'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{', then: 'hang' } },
    { raw: { bytes: 'HTTP/1.1 401 No\r\nContent-Length: 99\r\n\r\n{', then: 'hang' } },
  ] as const) {
    const { client, upstream, signal } = await connect(t, { token }, { credentials: account, timeouts })
    upstream.fault({ kind: 'token' }, fault)
    const error = await failureOf(client.manifest(NAME, LATEST, signal))
    t.equal(error.failure, 'unreachable', error.message)
    await upstream.log.until((log) => log.inFlight('token') === 0)
  }
})
