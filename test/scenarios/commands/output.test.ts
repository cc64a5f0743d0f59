/**
 * What a running server says: one readable line at the start, JSON where no person reads, and never a secret.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { serve } from '../../../src/app/serve.ts'
import { eventually, ownFolder } from '../../support/app.ts'
import { recordedEdge } from '../../support/edge.ts'
import { commandLine, Entrepot } from '../../support/process.ts'
import { missing, Program } from '../../support/programs.ts'
import '../../support/folders-last.ts'

test('the start line says where, what, and how to point a Docker daemon at it', async (t) => {
  const dir = t.testdir()
  const entrepot = await Entrepot.start(t, { dir, config: { upstreams: { 'quay.io': {}, 'docker.io': {} } } })
  const line = entrepot.log.at(-1)!
  t.match(line, {
    level: 'info',
    url: entrepot.url,
    upstreams: ['quay.io', 'docker.io'],
    root: join(dir, 'data'),
  })
  t.equal(
    line['msg'],
    `entrepot is ready at ${entrepot.url}, mirrors quay.io, docker.io, keeps it in ${join(dir, 'data')}; ` +
      `/etc/docker/daemon.json: { "registry-mirrors": ["${entrepot.url}"] }`,
  )
})

test('the start line offers no mirror of Docker Hub where names without a registry do not go there', async (t) => {
  for (const [upstreams, hint] of [
    [{ 'docker.io': { default: false }, 'quay.io': {} }, 'docker pull HOST/docker.io/NAME'],
    [{ 'docker.io': {}, 'quay.io': { default: true } }, 'docker pull HOST/docker.io/NAME'],
    [{ 'a.test:5000': {}, 'quay.io': {} }, 'docker pull HOST/quay.io/NAME'],
    // Nothing comes by a prefix with a port, nor from nobody.
    [{ 'a.test:5000': {} }, undefined],
    [{}, undefined],
  ] as const) {
    const dir = ownFolder(t)
    const { args } = commandLine({ dir, config: { upstreams, log: { level: 'silent' } } })
    const edge = recordedEdge({ terminal: true })
    const ended = serve({ config: args.at(-1)! }, edge)
    await eventually('it has started', () => edge.printed.length > 0)
    edge.interrupt()
    t.equal(await ended, 0)
    const [line = ''] = edge.printed
    t.notMatch(line, 'registry-mirrors')
    const host = /at http:\/\/(\S+),/.exec(line)?.[1] ?? ''
    const end = hint === undefined ? '/data' : `/data; ${hint.replace('HOST', host)}`
    t.ok(line.endsWith(end), `${line} ends with ${end}`)
  }
})

test('a server of the whole network names itself by something that can be reached', async (t) => {
  const config = { server: { host: '0.0.0.0', port: 0 } }
  const entrepot = await Entrepot.start(t, { dir: t.testdir(), config })
  t.notMatch(entrepot.log.at(-1)!['msg'], /0\.0\.0\.0/)
})

test(
  'on a terminal the start line stands alone and the log is readable',
  { skip: missing('script') },
  async (t) => {
    // One that is valid, and worth a line.
    const config = { push: { anonymous: true } }
    const dir = t.testdir()
    const { command, args, env } = commandLine({ dir, config })
    const pid = join(dir, 'pid')
    const line = `echo $$ > '${pid}'; exec ${[command, ...args].map((word) => `'${word}'`).join(' ')}`
    const program = new Program(t, 'script', ['-qec', line, '/dev/null'], { ...env, TERM: 'xterm' })
    // The end of its terminal is none to it: it reads its configuration again.
    const end = (): boolean => process.kill(Number(readFileSync(pid, 'utf8')), 'SIGTERM')
    let ended = false
    t.teardown(() => ended || !existsSync(pid) || end())
    await program.ready(() => program.stdout.includes('registry-mirrors'))
    t.match(program.stdout, /^entrepot is ready at http:\/\/127\.0\.0\.1:\d+, mirrors docker\.io, /m)
    t.match(program.stdout, /WARN.*configuration/)
    t.notMatch(program.stdout, /"level"/)
    ended = end()
    t.match(await program.exited, { code: 0 })
  },
)

test('every line of the log is JSON where no person reads it', async (t) => {
  const entrepot = await Entrepot.start(t, { dir: t.testdir(), config: { upstreams: {} } })
  await fetch(`${entrepot.url}/v2/`)
  await fetch(`${entrepot.url}/v2/nobody/has/manifests/it`)
  await entrepot.program.stop()
  t.match(
    entrepot.log.map(({ msg }) => msg),
    [/ready/, 'served', /./, 'stopping', 'stopped'],
  )
  t.equal(entrepot.program.stderr, '')
})

test('no secret of the configuration, of a client or of an upstream is in the log', async (t) => {
  const seen: (string | undefined)[] = []
  const upstream = createServer((request, response) => {
    seen.push(request.headers.authorization)
    const challenge =
      request.headers.authorization === undefined ? { 'www-authenticate': 'Basic realm="upstream"' } : {}
    response.writeHead(request.headers.authorization === undefined ? 401 : 500, {
      ...challenge,
      'set-cookie': 'session=SECRET-cookie',
    })
    response.end('{"token":"SECRET-token"}')
  })
  await new Promise<void>((resolve) => upstream.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    upstream.closeAllConnections()
    upstream.close()
  })
  const url = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`
  const dir = t.testdir()
  writeFileSync(join(dir, 'password'), 'SECRET-file\n')
  const entrepot = await Entrepot.start(t, {
    dir,
    config: {
      log: { level: 'trace' },
      upstreams: {
        'a.io': { url, username: 'me', password: '${FROM_ENV}' },
        'b.io': { url, username: 'me', passwordFile: join(dir, 'password') },
        'c.io': { url: 'http://registry.invalid', proxy: 'http://me:SECRET-proxy@127.0.0.1:1' },
      },
    },
    env: { FROM_ENV: 'SECRET-env' },
  })
  const headers = { authorization: `Basic ${btoa('me:SECRET-client')}`, cookie: 'a=SECRET-cookie' }
  for (const name of ['a.io/x', 'b.io/x', 'c.io/x']) {
    const response = await fetch(`${entrepot.url}/v2/${name}/manifests/1?token=SECRET-query`, { headers })
    t.equal(response.status, 503, name)
    t.notMatch(await response.text(), /SECRET/)
  }
  t.ok(seen.includes(`Basic ${btoa('me:SECRET-env')}`), 'the password reached its upstream')
  await entrepot.program.stop()
  const { output } = entrepot.program
  t.notMatch(output, /SECRET/)
  for (const secret of ['SECRET-client', 'SECRET-env', 'SECRET-file', 'SECRET-proxy']) {
    t.notOk(output.includes(btoa(`me:${secret}`)), `${secret} in base64`)
  }
})
