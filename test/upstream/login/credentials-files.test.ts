/** Credentials in files: read when they are needed, and again when they change. */
import { rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test, type Test } from 'tap'
import { credentialSource } from '../../../src/upstream/login/credential-source.ts'
import {
  basicHeader,
  Account,
  IDENTITY_TOKEN,
  type Credentials,
} from '../../../src/upstream/login/credentials.ts'
import { createMetrics } from '../../../src/telemetry/metrics.ts'
import { clientFor, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'
import '../../support/folders-last.ts'

const signal = new AbortController().signal

/** A source as the configuration of `key` makes it, and what it is heard to say. */
function sourceOf(settings: Parameters<typeof credentialSource>[0], key = 'quay.io', url = `https://${key}`) {
  const warnings: unknown[] = []
  const log = { warn: (fields: object, message: string) => warnings.push({ ...fields, message }) }
  const source = credentialSource(settings, { key, url, log, now: () => performance.now() })
  return { source, warnings }
}

async function dockerConfig(t: Test, config: unknown, key?: string, url?: string) {
  const file = path.join(t.testdir(), 'config.json')
  await writeFile(file, typeof config === 'string' ? config : JSON.stringify(config))
  return { file, ...sourceOf({ credentialsFile: file }, key, url) }
}

function encoded(text: string): { auth: string } {
  return { auth: Buffer.from(text).toString('base64') }
}

void test('a password may hold anything, and goes as UTF-8', async (t) => {
  for (const credentials of [
    { username: '_json_key', password: '{\n  "private_key": "-----BEGIN\\nPRIVATE: KEY-----"\n}\n' },
    { username: 'renée', password: ':ünï¢ødé 🔑:' },
    { username: 'oauth2accesstoken', password: 'ya29.x' },
  ]) {
    const [, sent = ''] = basicHeader(credentials).split(' ')
    t.match(sent, /^[A-Za-z0-9+/]+=*$/)
    t.equal(Buffer.from(sent, 'base64').toString(), `${credentials.username}:${credentials.password}`)
    const { upstream, client } = await connect(t, { basic: credentials }, { credentials })
    t.ok(await client.manifest(NAME, LATEST, signal))
    t.equal(upstream.log.of({ kind: 'manifest', status: 200 })[0]?.headers.authorization, `Basic ${sent}`)
  }
})

void test('passwordFile: exactly what it holds but for one newline, as it is now', async (t) => {
  const file = path.join(t.testdir({ password: 'a\r\nb \n\n' }), 'password')
  const { source, warnings } = sourceOf({ username: 'me', passwordFile: file })
  const password = async (): Promise<string | undefined> => (await source.get(signal))?.password
  t.equal(await password(), 'a\r\nb \n')
  await writeFile(file, 'c\r\n')
  t.equal(await password(), 'c')
  // As Kubernetes does it: another file takes its name.
  await writeFile(`${file}.new`, 'd')
  await rename(`${file}.new`, file)
  t.equal(await password(), 'd')
  t.same(warnings, [])
  await writeFile(file, '\n')
  t.equal(await password(), 'd', 'half written')
  await rm(file)
  t.equal(await password(), 'd', 'gone for a moment')
  t.same(warnings, [{ upstream: 'quay.io', file, message: 'the credentials cannot be read' }], 'told once')
  await writeFile(file, 'e')
  t.equal(await password(), 'e')
})

void test('passwordFile: one that never could be read is no reason to ask without', async (t) => {
  const file = path.join(t.testdir(), 'none')
  const { source } = sourceOf({ username: 'me', passwordFile: file })
  const failure = await failureOf(source.get(signal))
  t.match(failure, { failure: 'unreachable', message: /the file with its credentials cannot be read/ })
  t.notMatch(failure.message, file, 'clients hear of it, and our folders are none of their business')
  const { upstream } = await connect(t, { basic: { username: 'me', password: 'p' } })
  const account = new Account({ key: 'quay.io', source, metrics: createMetrics() })
  const client = clientFor(t, { url: upstream.url, account })
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'unreachable')
  t.equal(upstream.log.authorizationSeenBy('registry'), 0)
  await writeFile(file, 'p')
  t.ok(await client.manifest(NAME, LATEST, signal))
})

void test('credentialsFile: the forms of an entry', async (t) => {
  const rows: [entry: unknown, expected: Credentials | undefined][] = [
    [encoded('me:p:a:ss'), { username: 'me', password: 'p:a:ss' }],
    [encoded('me:pass\0\0'), { username: 'me', password: 'pass' }],
    [encoded('_json_key:{\n"a": "ä"\n}\n'), { username: '_json_key', password: '{\n"a": "ä"\n}\n' }],
    [
      { username: 'me', password: 'p' },
      { username: 'me', password: 'p' },
    ],
    [
      { ...encoded('x:y'), username: 'me', password: 'p' },
      { username: 'me', password: 'p' },
    ],
    [
      { ...encoded('me:'), identitytoken: 'refresh' },
      { username: IDENTITY_TOKEN, password: 'refresh' },
    ],
    [{ auth: encoded(`${IDENTITY_TOKEN}:refresh`).auth }, { username: IDENTITY_TOKEN, password: 'refresh' }],
    [{}, undefined],
    [{ auth: '' }, undefined],
    [encoded('no colon'), undefined],
    [{ auth: 7 }, undefined],
    [null, undefined],
  ]
  for (const [entry, expected] of rows) {
    const { source } = await dockerConfig(t, { auths: { 'quay.io': entry } })
    t.same(await source.get(signal), expected, JSON.stringify(entry))
  }
})

void test('credentialsFile: the names of a registry', async (t) => {
  const hub = 'https://registry-1.docker.io'
  for (const [name, key, url] of [
    ['quay.io', 'quay.io', 'https://quay.io'],
    ['https://quay.io', 'quay.io', 'https://quay.io'],
    ['https://quay.io/v1/', 'quay.io', 'https://quay.io'],
    ['http://quay.io/v2', 'quay.io', 'https://quay.io'],
    ['Registry.Example:5000', 'registry.example:5000', 'https://registry.example:5000'],
    ['harbor.example', 'quay.io', 'https://harbor.example'],
    ['quay.io', 'quay.io', 'https://harbor.example'],
    ['https://index.docker.io/v1/', 'docker.io', hub],
    ['docker.io', 'docker.io', hub],
    ['registry-1.docker.io', 'docker.io', hub],
  ] as const) {
    const { source } = await dockerConfig(t, { auths: { [name]: encoded('me:p') } }, key, url)
    t.match(await source.get(signal), { username: 'me' }, `${name} for ${key}`)
  }
  const { source, warnings } = await dockerConfig(t, {
    auths: { 'quay.io/team': encoded('team:p'), 'evil-quay.io': encoded('x:p'), 'docker.io': encoded('x:p') },
  })
  t.equal(await source.get(signal), undefined)
  t.equal(await source.get(signal), undefined)
  t.match(warnings, [{ upstream: 'quay.io', message: /asking without/ }])
  t.equal(warnings.length, 1)
})

void test('credentialsFile: the host that is asked goes before the name of the upstream', async (t) => {
  const auths = { 'docker.io': encoded('hub:p'), 'artifactory.example': encoded('own:p') }
  const { source } = await dockerConfig(t, { auths }, 'docker.io', 'https://artifactory.example')
  t.match(await source.get(signal), { username: 'own' })
})

void test('credentialsFile: is read again when it changes, and kept when it is torn', async (t) => {
  const { file, source, warnings } = await dockerConfig(t, { auths: { 'quay.io': encoded('a:1') } })
  t.match(await source.get(signal), { username: 'a' })
  await writeFile(file, JSON.stringify({ auths: { 'quay.io': encoded('b:22') } }))
  t.match(await source.get(signal), { username: 'b' })
  await writeFile(file, '{"auths": {"quay.io": {"au')
  t.match(await source.get(signal), { username: 'b' })
  await writeFile(file, '{}')
  t.equal(await source.get(signal), undefined, 'logged out')
  t.equal(warnings.length, 2)
})

void test('credentialsFile: a user name that Basic cannot carry is not sent', async (t) => {
  const { source } = await dockerConfig(t, { auths: { 'quay.io': { username: 'a:b', password: 'c' } } })
  t.match(await failureOf(source.get(signal)), { failure: 'unreachable', message: /colon/ })
})

void test('credentialsFile: a helper is named by a name, never by a path', async (t) => {
  for (const config of [
    { credHelpers: { 'quay.io': '../../bin/sh' } },
    { credsStore: '/bin/sh' },
    { credsStore: 'a b' },
  ]) {
    const { source } = await dockerConfig(t, config)
    t.match(await failureOf(source.get(signal)), { failure: 'unreachable', message: /helper oddly/ })
  }
})
