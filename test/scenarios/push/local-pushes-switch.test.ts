/** Programs on this machine: when they may push by being that, and what ends it. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { test, type Test } from 'tap'
import { loadConfig } from '../../../src/config/schema.ts'
import { pull, simulate, startMirror, type Mirror } from '../../support/app.ts'
import { layer } from '../../support/images.ts'
import { freePort, missing, Program, shortDir } from '../../support/programs.ts'
import { pushBlob, send } from '../../support/push.ts'
import { open, replies } from '../../support/http-fakes.ts'

const BLOB = layer({ size: 100, seed: 'switch' })
const WARNING = 'a request came through a proxy'

async function start(t: Test, config: Record<string, unknown> = {}): Promise<Mirror> {
  return startMirror(t, await simulate(t), { config: { local: ['ours/**'], ...config } })
}

async function begin(mirror: Mirror, headers: Record<string, string> = {}) {
  const answer = await send(`${mirror.url}/v2/ours/app/blobs/uploads/`, 'POST', null, headers)
  return { status: answer.status, text: answer.body.toString() }
}

/** By HTTP/1.0, as an older nginx asks. */
async function byOldHttp(mirror: Mirror, request: string): Promise<{ status: number; body: string }> {
  const { port, host } = new URL(mirror.url)
  const socket = await open(Number(port))
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  socket.write(`${request} HTTP/1.0\r\nHost: ${host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
  await once(socket, 'close')
  const [reply] = replies(Buffer.concat(chunks).toString('latin1'))
  if (reply === undefined) throw new Error('no answer')
  return reply
}

function warnings({ lines }: Mirror): Record<string, unknown>[] {
  return lines.filter(({ level, msg }) => level === 'warn' && String(msg).startsWith(WARNING))
}

test('push.local: false ends it, and says so', async (t) => {
  const mirror = await start(t, { push: { local: false } })
  for (const headers of [{}, { host: 'localhost' }] as Record<string, string>[]) {
    const { status, text } = await begin(mirror, headers)
    t.equal(status, 403)
    t.match(text, /DENIED.*push\.local: true/)
  }
  const repository = `${mirror.url}/v2/ours/app`
  for (const [target, method] of [
    [`manifests/1`, 'PUT'],
    [`manifests/1`, 'DELETE'],
    [`blobs/${BLOB.digest}`, 'DELETE'],
    [`blobs/uploads/?mount=${BLOB.digest}&from=a/b`, 'POST'],
    ['blobs/uploads/1.x', 'PATCH'],
  ] as const) {
    t.equal((await send(`${repository}/${target}`, method)).status, 403, `${method} ${target}`)
  }
  t.equal((await pull(`${mirror.url}/v2/_catalog`)).status, 200, 'pulls are another matter')
})

test('push.anonymous opens pushes also then', async (t) => {
  const mirror = await start(t, { push: { local: false, anonymous: true } })
  t.equal((await begin(mirror)).status, 202)
})

test('it ends by itself where a proxy is configured, unless push.local says otherwise', async (t) => {
  const publicUrl = 'https://mirror.example'
  for (const [config, status] of [
    [{}, 202],
    [{ server: { port: 0, publicUrl } }, 403],
    [{ server: { port: 0, publicUrl }, push: { local: true } }, 202],
    [{ server: { port: 0, accelRedirect: '/blobs/' } }, 403],
    [{ server: { port: 0, accelRedirect: '/blobs/' }, push: { local: true } }, 202],
    [{ server: { port: 0, host: '0.0.0.0' }, push: { local: true } }, 403],
  ] as const) {
    const mirror = await start(t, config)
    const url = mirror.url.replace('0.0.0.0', '127.0.0.1')
    t.equal((await begin({ ...mirror, url })).status, status, JSON.stringify(config))
    const proxied = await begin({ ...mirror, url }, { 'x-forwarded-for': '192.0.2.1' })
    t.equal(proxied.status, 403)
    await mirror.close()
  }
})

test('a configuration that is read again can end it, and begin it', async (t) => {
  const mirror = await start(t)
  const read = (local: boolean | undefined, server = {}) =>
    loadConfig({
      text: JSON.stringify({
        server: { port: 0, ...server },
        storage: { root: mirror.root },
        local: ['ours/**'],
        push: local === undefined ? {} : { local },
      }),
      env: {},
    }).config
  t.ok((await mirror.app.reload(read(false))).applied.includes('push.local'))
  t.equal((await begin(mirror)).status, 403)
  await mirror.app.reload(read(undefined))
  t.equal((await begin(mirror)).status, 202)
  const { needRestart } = await mirror.app.reload(read(undefined, { publicUrl: 'https://mirror.example' }))
  t.same(needRestart, ['server.publicUrl'])
  t.equal((await begin(mirror)).status, 202, 'the default is by the server that runs')
})

test('HTTP/1.0 is no program on this machine, and is warned of once', async (t) => {
  const mirror = await start(t)
  const refused = await byOldHttp(mirror, 'POST /v2/ours/app/blobs/uploads/')
  t.equal(refused.status, 403)
  t.match(refused.body, /push\.anonymous/)
  t.equal((await byOldHttp(mirror, 'DELETE /v2/ours/app/manifests/1')).status, 403)
  t.equal((await byOldHttp(mirror, 'GET /v2/_catalog')).status, 200)
  t.match(warnings(mirror), [{ sign: 'HTTP/1.0', key: 'push.local' }])
  t.equal(warnings(mirror).length, 1)
})

test('so is every request that tells of a proxy, whatever it asks for', async (t) => {
  for (const name of ['x-forwarded-for', 'x-forwarded-proto', 'forwarded', 'via', 'x-real-ip']) {
    const mirror = await start(t)
    for (const target of ['v2/', 'livez']) await pull(`${mirror.url}/${target}`, { [name]: 'x' })
    t.match(warnings(mirror), [{ sign: name }], name)
    t.equal(warnings(mirror).length, 1)
    await mirror.close()
  }
  const mirror = await start(t)
  for (const name of ['true-client-ip', 'x-client-ip', 'cf-connecting-ip', 'x-forwarded-prefix'])
    t.equal((await begin(mirror, { [name]: '192.0.2.1' })).status, 403, name)
})

test('nobody is warned where it changes nothing', async (t) => {
  for (const config of [
    { push: { local: false } },
    { push: { anonymous: true } },
    { server: { port: 0, publicUrl: 'https://mirror.example' } },
    { server: { port: 0, accelRedirect: '/blobs/' } },
  ]) {
    const mirror = await start(t, config)
    await pull(`${mirror.url}/v2/`, { 'x-forwarded-for': '192.0.2.1' })
    await byOldHttp(mirror, 'GET /v2/')
    t.same(warnings(mirror), [], JSON.stringify(config))
    await mirror.close()
  }
  const direct = await start(t)
  t.equal((await pushBlob(`${direct.url}/v2/ours/app`, BLOB)).status, 201)
  t.same(warnings(direct), [])
})

/** nginx with nothing but `proxy_pass`. @returns its URL */
async function bareNginx(t: Test, mirror: Mirror, version: string): Promise<string> {
  const folder = shortDir(t)
  const port = await freePort()
  const temporaries = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${folder}/${kind};`)
    .join(' ')
  const file = path.join(folder, 'nginx.conf')
  writeFileSync(
    file,
    `daemon off; master_process off; ${process.getuid?.() === 0 ? 'user root;' : ''}
    pid ${folder}/pid; error_log ${folder}/error.log;
    events { worker_connections 64; }
    http { access_log off; ${temporaries}
      server { listen 127.0.0.1:${port}; location / { ${version} proxy_pass ${mirror.url}; } }
    }\n`,
  )
  const nginx = new Program(t, 'nginx', ['-c', file, '-p', folder])
  const url = `http://127.0.0.1:${port}`
  await nginx.ready(async () => (await pull(`${url}/livez`).catch(() => undefined))?.status === 200)
  return url
}

test(
  'a bare nginx of old in front lets nobody push, and is warned of',
  { skip: missing('nginx') },
  async (t) => {
    const mirror = await start(t)
    const url = await bareNginx(t, mirror, 'proxy_http_version 1.0;')
    const far = { ...mirror, url }
    t.equal((await begin(far)).status, 403)
    t.equal((await send(`${url}/v2/ours/app/manifests/1`, 'DELETE')).status, 403)
    t.match(warnings(mirror), [{ sign: 'HTTP/1.0' }])
    t.equal((await pull(`${url}/v2/_catalog`)).status, 200)
  },
)

test('a bare nginx that shows nothing needs push.local: false', { skip: missing('nginx') }, async (t) => {
  const version = 'proxy_http_version 1.1;'
  const open = await start(t)
  t.equal((await begin({ ...open, url: await bareNginx(t, open, version) })).status, 202, 'nobody can tell')
  for (const config of [
    { push: { local: false } },
    { server: { port: 0, publicUrl: 'https://mirror.example' } },
  ]) {
    const closed = await start(t, config)
    const far = { ...closed, url: await bareNginx(t, closed, version) }
    t.equal((await begin(far)).status, 403, JSON.stringify(config))
  }
})
