/** Events of a process that is killed, of one that is not there, and behind a proxy. */
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'tap'
import { layer } from '../support/images.ts'
import { Listener } from '../support/listener.ts'
import { Entrepot } from '../support/process.ts'
import { succeed } from '../support/programs.ts'
import { pushBlob } from '../support/push.ts'
import '../support/folders-last.ts'

test('a push that was acknowledged is told although the process was killed before', async (t) => {
  const listener = await Listener.start(t)
  const options = {
    dir: t.testdir(),
    config: { notifications: [{ url: listener.url, backoff: '1ms' }] },
  }
  const first = await Entrepot.start(t, options)
  // The first is never told to be taken, so none of the others is told at all.
  listener.behave = () => undefined
  const blobs = Array.from({ length: 20 }, (_, seed) => layer({ size: 10, seed }))
  const answers = await Promise.all(blobs.map((blob) => pushBlob(`${first.url}/v2/team/app`, blob)))
  first.program.kill('SIGKILL')
  t.ok(answers.every(({ status }) => status === 201))
  await first.program.stop()
  listener.behave = undefined

  await Entrepot.start(t, options)
  await listener.until(() => listener.taken.length === 20)
  t.same(
    new Set(listener.taken.map(({ target }) => target.digest)),
    new Set(blobs.map(({ digest }) => digest)),
  )
  t.equal(listener.posts[0]?.events[0]?.id, listener.taken[0]?.id, 'the one that was under way comes again')
})

test('what a command deletes while no server runs is told by the next one', async (t) => {
  const listener = await Listener.start(t)
  const dir = t.testdir()
  const options = { dir, config: { notifications: [{ url: listener.url, ignoreActions: ['push'] }] } }
  const server = await Entrepot.start(t, options)
  await pushBlob(`${server.url}/v2/team/app`, layer({ size: 10 }))
  await server.program.stop()

  const start = join(import.meta.dirname, '../../src/app/start.js')
  await succeed(process.execPath, [start, 'rm', '--all', 'team/app', '--config', join(dir, 'config.yaml')])
  t.equal(listener.posts.length, 0)
  await Entrepot.start(t, options)
  await listener.until(() => listener.taken.length === 1)
  const [event] = listener.taken
  t.equal(event?.action, 'delete')
  t.same(event?.target, { repository: 'team/app' })
  t.same(event?.request, {}, 'no request did it')
})

test('receivers are reached through the proxy of the environment', async (t) => {
  const listener = await Listener.start(t)
  const { port } = new URL(listener.url)
  const asked: string[] = []
  const proxy = createServer((incoming, response) => {
    asked.push(`${incoming.method} ${incoming.url}`)
    const { method, headers } = incoming
    const outgoing = request(listener.url, { method, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502)
      answer.pipe(response)
    })
    incoming.pipe(outgoing)
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    proxy.closeAllConnections()
    proxy.close()
  })
  const entrepot = await Entrepot.start(t, {
    dir: t.testdir(),
    config: { notifications: [{ url: `http://hooks.test:${port}/x` }] },
    env: { HTTP_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}` },
  })
  await pushBlob(`${entrepot.url}/v2/team/app`, layer({ size: 10 }))
  await listener.until(() => listener.taken.length === 1)
  t.same(asked, [`POST http://hooks.test:${port}/x`])
})
