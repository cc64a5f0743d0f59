/** TLS with certificates that are replaced while the server runs. */
import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { X509Certificate } from 'node:crypto'
import { copyFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { connect as connectPlain } from 'node:net'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { test } from 'tap'
import { certificateHealth } from '../../src/http/tls.ts'
import { raw, replies, serveFake, type Served } from '../support/http-fakes.ts'
import '../support/folders-last.ts'

const skip = spawnSync('openssl', ['version']).error ? 'openssl is missing' : false

/** A self-signed pair for that name. */
function makePair(folder: string, name: string, days = 2): { cert: string; key: string } {
  const pair = { cert: join(folder, `${name}.crt`), key: join(folder, `${name}.key`) }
  const algorithm = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  const subject = ['-subj', `/CN=${name}`, '-days', String(days)]
  execFileSync(
    'openssl',
    ['req', '-x509', ...algorithm, '-keyout', pair.key, '-out', pair.cert, ...subject],
    { stdio: 'ignore' },
  )
  return pair
}

/** One that was good until just now. */
function makeExpired(folder: string, name: string): { cert: string; key: string } {
  const { cert: valid, key } = makePair(folder, name)
  const cert = join(folder, `${name}-expired.crt`)
  const ends = ['-signkey', key, '-days', '0', '-out', cert]
  execFileSync('openssl', ['x509', '-in', valid, ...ends], { stdio: 'ignore' })
  return { cert, key }
}

async function ask(port: number, target: string): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
  let text = ''
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()))
  await once(socket, 'secureConnect')
  socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
  await once(socket, 'close')
  return text
}

/** Common name of the certificate, and the answer to a ping. */
async function ping(port: number): Promise<{ name: string | string[] | undefined; text: string }> {
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
  await once(socket, 'secureConnect')
  const name = socket.getPeerCertificate().subject.CN
  let text = ''
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()))
  socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  await once(socket, 'close')
  return { name, text }
}

async function logged({ lines, line }: Served, message: string): Promise<void> {
  for (let nth = 0; ; nth++) {
    await line(nth)
    if (lines[nth]?.msg === message) {
      lines.splice(0)
      return
    }
  }
}

test('a new pair is taken up, a broken one is not', { skip }, async (t) => {
  const folder = t.testdir()
  const files = makePair(folder, 'first')
  const second = makePair(folder, 'second')
  const third = makePair(folder, 'third')
  const served = await serveFake(t, { tls: files, timeouts: { tlsPollMs: 20 } })
  const before = await ping(served.port)
  t.equal(before.name, 'first')
  t.equal(replies(before.text)[0]?.status, 200)
  served.lines.splice(0)

  copyFileSync(second.cert, files.cert)
  await logged(served, 'certificate not reloaded, the old one stays')
  t.equal((await ping(served.port)).name, 'first', 'a certificate without its key')
  served.lines.splice(0)
  copyFileSync(second.key, files.key)
  await logged(served, 'certificate reloaded')
  t.equal((await ping(served.port)).name, 'second')

  served.lines.splice(0)
  // Several looks, with nothing new to see.
  await new Promise((resolve) => setTimeout(resolve, 100))
  t.notOk(served.lines.some(({ msg }) => msg.startsWith('certificate')))
  writeFileSync(files.cert, 'nonsense')
  await logged(served, 'certificate not reloaded, the old one stays')
  t.equal((await ping(served.port)).name, 'second')
  renameSync(third.key, files.key)
  renameSync(third.cert, files.cert)
  await logged(served, 'certificate reloaded')
  t.equal((await ping(served.port)).name, 'third')
})

test(
  'a client that speaks no TLS is turned away, and half a handshake holds nothing up',
  { skip },
  async (t) => {
    const served = await serveFake(t, { tls: makePair(t.testdir(), 'name') })
    const text = await raw(served.port, 'GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n')
    t.notMatch(text, 'HTTP/1.1 200')
    const waiting = connectPlain(served.port, '127.0.0.1')
    waiting.on('error', () => undefined)
    await once(waiting, 'connect')
    t.equal((await ping(served.port)).name, 'name')
    const gone = once(waiting, 'close')
    await served.server.close(30_000)
    await gone
  },
)

test('a pair that cannot be used is a sentence', { skip }, async (t) => {
  const folder = t.testdir({ 'not-pem': 'x' })
  const { cert, key } = makePair(folder, 'a')
  const other = makePair(folder, 'b')
  const start = (tls: { cert: string; key: string }): Promise<unknown> => serveFake(t, { tls })
  await t.rejects(start({ cert: join(folder, 'none'), key }), {
    name: 'TlsError',
    message: /^cannot read the certificate .*none/,
  })
  await t.rejects(start({ cert, key: join(folder, 'none') }), {
    name: 'TlsError',
    message: /^cannot read the key /,
  })
  await t.rejects(start({ cert: join(folder, 'not-pem'), key }), { name: 'TlsError' })
  await t.rejects(start({ cert, key: other.key }), {
    name: 'TlsError',
    message: /are not a certificate and its key/,
  })
})

/** The certificate in the answer of /readyz, with the metric. */
async function told({ port, metrics }: Served) {
  const text = await ask(port, '/readyz')
  const reply = replies(text)[0]!
  const { status, certificate } = JSON.parse(reply.body) as {
    status: string
    certificate?: { notAfter: string; expired: boolean; message?: string }
  }
  const line = /^entrepot_tls_certificate_not_after_seconds (\d+)$/m.exec(await metrics.scrape())?.[1]
  return { ready: reply.status, status, certificate, metric: line === undefined ? undefined : Number(line) }
}

test(
  'readyz and a metric tell when the certificate expires, of each that is taken up',
  { skip },
  async (t) => {
    const folder = t.testdir()
    const files = makePair(folder, 'first', 400)
    const later = makePair(folder, 'second', 5)
    const expired = makeExpired(folder, 'third')
    const dateOf = (pair: { cert: string }): Date => new X509Certificate(readFileSync(pair.cert)).validToDate
    const served = await serveFake(t, { tls: { ...files }, timeouts: { tlsPollMs: 20 } })
    const notAfter = dateOf(files)
    t.strictSame(await told(served), {
      ...{ ready: 200, status: 'ok', metric: notAfter.getTime() / 1000 },
      certificate: { notAfter: notAfter.toISOString(), expired: false },
    })

    const replaceBy = async (pair: { cert: string; key: string }): Promise<Date> => {
      served.lines.splice(0)
      const date = dateOf(pair)
      renameSync(pair.key, files.key)
      renameSync(pair.cert, files.cert)
      await logged(served, 'certificate reloaded')
      return date
    }
    const soon = await replaceBy(later)
    t.match(await told(served), {
      ...{ ready: 200, status: 'ok', metric: soon.getTime() / 1000 },
      certificate: { expired: false, message: `expires on ${soon.toISOString()}, in 4 days` },
    })
    const past = await replaceBy(expired)
    t.match(await told(served), {
      ...{ ready: 200, status: 'degraded', metric: past.getTime() / 1000 },
      certificate: { expired: true, message: `has expired on ${past.toISOString()}` },
    })
  },
)

test('without a certificate nothing is said of one', async (t) => {
  const served = await serveFake(t)
  const text = await raw(served.port, 'GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  t.notMatch(text, 'certificate')
  t.notMatch(await served.metrics.scrape(), /^entrepot_tls_certificate_not_after_seconds/m)
})

test('the sentence says how long is left', async (t) => {
  const notAfter = new Date('2026-03-01T00:00:00Z')
  for (const [now, message] of [
    ['2026-02-14T23:59:59Z', undefined],
    ['2026-02-15T00:00:01Z', /expires on 2026-03-01T00:00:00\.000Z, in 13 days$/],
    ['2026-02-27T12:00:00Z', /in 1 day$/],
    ['2026-02-28T12:00:00Z', /in less than a day$/],
    ['2026-03-01T00:00:00Z', /has expired on 2026-03-01/],
    ['2027-03-01T00:00:00Z', /has expired on 2026-03-01/],
  ] as const) {
    t.match(certificateHealth(notAfter, Date.parse(now)).message, message, now)
  }
})
