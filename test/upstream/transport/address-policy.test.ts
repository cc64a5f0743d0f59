import type { LookupFunction } from 'node:net'
import { test } from 'tap'
import {
  AddressRefused,
  AddressRule,
  classifyAddress,
  classifyHost,
} from '../../../src/upstream/transport/address-policy.ts'
import { clientFor, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'

void test('what kind of address it is', (t) => {
  for (const [address, expected] of Object.entries({
    '93.184.216.34': 'public',
    '2606:2800:220:1:248:1893:25c8:1946': 'public',
    '127.0.0.1': 'loopback',
    '127.8.8.8': 'loopback',
    '0.0.0.0': 'loopback',
    '::1': 'loopback',
    '::': 'loopback',
    '::ffff:127.0.0.1': 'loopback',
    '10.1.2.3': 'private',
    '172.16.0.1': 'private',
    '172.31.255.255': 'private',
    '172.32.0.1': 'public',
    '192.168.1.1': 'private',
    '100.64.0.1': 'private',
    'fd00:ec2::1': 'private',
    'fec0::1': 'private',
    '198.18.0.1': 'private',
    '198.19.255.255': 'private',
    '198.20.0.1': 'public',
    '192.0.0.192': 'never',
    '192.0.1.1': 'public',
    '64:ff9b:1::a00:1': 'never',
    '64:ff9b:1:ffff::5db8:d822': 'never',
    '2002:a00:1::': 'never',
    '2002:5db8:d822::1': 'never',
    '100.100.100.200': 'never',
    '168.63.129.16': 'never',
    '::ffff:168.63.129.16': 'never',
    'fd00:ec2::254': 'never',
    'fd20:ce::254': 'never',
    '169.254.169.254': 'never',
    'fe80::1': 'never',
    'fe80::1%eth0': 'never',
    '::ffff:169.254.169.254': 'never',
    '64:ff9b::a9fe:a9fe': 'never',
    '64:ff9b::5db8:d822': 'public',
    '64:ff9b::7f00:1': 'loopback',
    '224.0.0.1': 'never',
    '255.255.255.255': 'never',
    'ff02::1': 'never',
    '100.63.255.255': 'public',
    '100.127.255.255': 'private',
    '192.0.0.1': 'never',
    '240.0.0.1': 'never',
    '0.1.2.3': 'loopback',
    '0:0:0:0:0:0:0:1': 'loopback',
    '::ffff:0.0.0.0': 'loopback',
    '::ffff:7f00:1': 'loopback',
    '::ffff:192.168.0.1': 'private',
    '::ffff:198.18.0.1': 'private',
    '::ffff:100.100.100.200': 'never',
    '::ffff:192.0.0.192': 'never',
    '::ffff:93.184.216.34': 'public',
    'FE80::1': 'never',
    'febf::1': 'never',
    'feff::1': 'private',
    'fdff::1': 'private',
    '0064:ff9b:0:0:0:0:a9fe:a9fe': 'never',
    '64:ff9b::169.254.169.254': 'never',
    '64:ff9b::c612:1': 'private',
    '64:ff9b:0:0:0:1:5db8:d822': 'never',
    '64:ff9b:1::a9fe:a9fe': 'never',
    '2002:a9fe:a9fe::1': 'never',
    '2002:7f00:1::': 'never',
    // Each of these carries an IPv4 address, too.
    '2001:0:4136:e378:8000:63bf:5601:5601': 'never',
    '::ffff:0:7f00:1': 'never',
    '::7f00:1': 'never',
    '::a9fe:a9fe': 'never',
  })) {
    t.equal(classifyAddress(address), expected, address)
  }
  t.end()
})

void test('what kind of host it is', (t) => {
  for (const [host, expected] of Object.entries({
    'quay.io': 'public',
    localhost: 'loopback',
    'registry.localhost': 'loopback',
    'localhost.example': 'public',
    '127.0.0.1': 'loopback',
    '10.0.0.1': 'private',
    'fe80::1': 'never',
    '127.0.0.1.nip.io': 'public',
  })) {
    t.equal(classifyHost(host), expected, host)
  }
  t.end()
})

void test('which literal addresses a redirect may name', (t) => {
  for (const [upstream, target, allowed] of [
    ['https://93.184.216.34', 'https://93.184.216.35/', true],
    ['https://93.184.216.34', 'https://10.0.0.1/', false],
    ['https://93.184.216.34', 'https://127.0.0.1/', false],
    ['https://93.184.216.34', 'https://2130706433/', false],
    ['https://93.184.216.34', 'https://0x7f.1/', false],
    ['https://93.184.216.34', 'https://[::ffff:10.0.0.1]/', false],
    ['https://10.0.0.5', 'https://10.9.9.9/', true],
    ['https://10.0.0.5', 'https://127.0.0.1/', false],
    ['https://10.0.0.5', 'https://169.254.169.254/', false],
    ['https://10.0.0.5', 'https://100.100.100.200/', false],
    ['https://10.0.0.5', 'https://[2002:a00:1::]/', false],
    ['https://93.184.216.34', 'https://198.18.0.1/', false],
    ['https://93.184.216.34', 'https://[fec0::1]/', false],
    ['https://93.184.216.34', 'https://[64:ff9b:1::a9fe:a9fe]/', false],
    ['https://93.184.216.34', 'https://192.0.0.192/', false],
    ['https://10.0.0.5', 'https://[::ffff:169.254.169.254]/', false],
    ['https://10.0.0.5', 'https://[::a00:1]/', false],
    ['https://127.0.0.1', 'https://10.0.0.1/', true],
    ['https://localhost', 'https://127.0.0.1/', true],
    ['https://[::1]', 'https://127.0.0.1/', true],
    ['https://169.254.10.10', 'https://169.254.10.10/', true],
    ['https://169.254.10.10', 'https://169.254.169.254/', false],
  ] as const) {
    t.equal(new AddressRule(new URL(upstream)).allows(new URL(target)), allowed, `${upstream} -> ${target}`)
  }
  t.end()
})

function resolverOf(names: Record<string, string[]>): LookupFunction {
  return (hostname, _options, callback) => {
    const addresses = (names[hostname] ?? []).map((address) => ({ address, family: 4 }))
    callback(null, addresses)
  }
}

async function resolve(rule: AddressRule, hostname: string): Promise<unknown> {
  return await new Promise((resolve, reject) => {
    rule.lookup(hostname, { all: true }, (error, found) => (error === null ? resolve(found) : reject(error)))
  })
}

void test('a name is as good as the addresses behind it', async (t) => {
  const names = resolverOf({
    'registry.example': ['93.184.216.34'],
    'cdn.example': ['93.184.216.35'],
    'mixed.example': ['10.0.0.1', '93.184.216.36'],
    'inside.example': ['10.0.0.1'],
    'rebound.example': ['127.0.0.1'],
    'metadata.example': ['169.254.169.254'],
  })
  const rule = new AddressRule(new URL('https://registry.example'), names)
  t.same(await resolve(rule, 'cdn.example'), [{ address: '93.184.216.35', family: 4 }])
  t.same(await resolve(rule, 'mixed.example'), [{ address: '93.184.216.36', family: 4 }])
  for (const name of ['inside.example', 'rebound.example', 'metadata.example']) {
    await t.rejects(resolve(rule, name), AddressRefused, name)
  }
  t.same(await resolve(rule, 'registry.example'), [{ address: '93.184.216.34', family: 4 }])
  await t.rejects(resolve(rule, 'inside.example'), AddressRefused)
})

void test('an upstream inside may send us to others inside', async (t) => {
  const names = resolverOf({
    'registry.lan': ['10.0.0.5'],
    'minio.lan': ['10.0.0.6'],
    'here.lan': ['127.0.0.1'],
    'metadata.lan': ['169.254.169.254'],
  })
  const rule = new AddressRule(new URL('https://registry.lan'), names)
  t.same(await resolve(rule, 'registry.lan'), [{ address: '10.0.0.5', family: 4 }])
  t.same(await resolve(rule, 'minio.lan'), [{ address: '10.0.0.6', family: 4 }])
  await t.rejects(resolve(rule, 'here.lan'), AddressRefused)
  await t.rejects(resolve(rule, 'metadata.lan'), AddressRefused)
})

void test('a redirect to a name that points where it must not is an unusable answer', async (t) => {
  const { upstream, image, signal } = await connect(t)
  const { port } = new URL(upstream.url)
  const names = resolverOf({ 'registry.test': ['127.0.0.1'], 'metadata.test': ['169.254.169.254'] })
  const client = clientFor(t, { url: `http://registry.test:${port}`, resolve: names })
  t.ok(await client.manifest(NAME, LATEST, signal))
  const location = `http://metadata.test:${port}/`
  const rule = upstream.fault({ kind: 'blob' }, { status: 307, headers: { location } })
  const asked = client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
  t.equal((await failureOf(asked)).failure, 'broken')
  t.equal(rule.hits, 1)
})

void test('a name that nobody knows is unreachable, and that is not asked again', async (t) => {
  let asked = 0
  const resolve: LookupFunction = (hostname, _options, callback) => {
    asked += 1
    callback(Object.assign(new Error(`getaddrinfo ENOTFOUND ${hostname}`), { code: 'ENOTFOUND' }), [])
  }
  const client = clientFor(t, { url: 'http://registry.test', resolve })
  const { signal } = new AbortController()
  t.equal((await failureOf(client.manifest(NAME, LATEST, signal))).failure, 'unreachable')
  t.equal(asked, 1)
})
