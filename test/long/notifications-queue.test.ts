/** Events that wait: nobody waits for them, they outlive the process, and there is an end to them. */
import type { ServerResponse } from 'node:http'
import { test } from 'tap'
import { Backlog, MOST_EVENTS, MOST_PULLS } from '../../src/registry/notifications/backlog.ts'
import { Outbox } from '../../src/registry/notifications/outbox.ts'
import type { EventRequest, RepositoryEvent } from '../../src/registry/notifications/event.ts'
import type { MetadataTransaction } from '../../src/storage/metadata/metadata.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { eventually, pull, simulate, startMirror, type Mirror } from '../support/app.ts'
import { Listener } from '../support/listener.ts'
import { digestsTaken, EAGER, notificationMetric, pushSmall, startNotified } from '../support/notified.ts'
import { send } from '../support/push.ts'

test('a receiver that says nothing slows no push and no other receiver', async (t) => {
  const [dead, live] = [await Listener.start(t), await Listener.start(t)]
  const held: ServerResponse[] = []
  dead.behave = (response) => void held.push(response)
  const mirror = await startNotified(t, [{ url: dead.url }, { url: live.url }])
  const pushed = await pushSmall(mirror, 200, 10)
  await live.until(() => live.taken.length === 200)
  t.same(new Set(digestsTaken(live)), new Set(pushed))
  t.equal(dead.posts.length, 1, 'it was still at the first one when the last was pushed')
  t.equal(held.filter(({ destroyed }) => !destroyed).length, 1, 'and has time left')
  t.equal(await notificationMetric(mirror, 'queued', dead.url), 200)

  dead.behave = undefined
  for (const response of held) response.writeHead(500).end()
  await dead.until(() => dead.taken.length === 200)
  t.same(digestsTaken(dead), digestsTaken(live), 'then it gets them all, in the same order')
  await eventually(
    'the queue is empty',
    async () => (await notificationMetric(mirror, 'queued', dead.url)) === 0,
  )
})

test('each receiver is told what it does not ignore', async (t) => {
  const [all, writes, deletes] = [await Listener.start(t), await Listener.start(t), await Listener.start(t)]
  const mirror = await startNotified(t, [
    { url: all.url },
    { url: writes.url, ignoreActions: ['pull'] },
    { url: deletes.url, ignoreActions: ['pull', 'push', 'mount'] },
  ])
  const [digest] = await pushSmall(mirror, 1)
  await pull(`${mirror.url}/v2/team/app/blobs/${digest}`)
  await send(`${mirror.url}/v2/team/app/blobs/${digest}`, 'DELETE')
  const listeners = [all, writes, deletes]
  await Promise.all(listeners.map((it) => it.until(() => it.taken.at(-1)?.action === 'delete')))
  t.same(
    listeners.map((it) => it.taken.map(({ action }) => action)),
    [['push', 'pull', 'delete'], ['push', 'delete'], ['delete']],
  )
  t.equal(new Set(listeners.map((it) => it.taken.at(-1)?.id)).size, 1, 'one event, whoever is told')
})

test('after a stop delivery goes on where it stopped, and what is being told comes to its end', async (t) => {
  const listener = await Listener.start(t)
  let held: ServerResponse | undefined
  listener.behave = (response, post) => {
    if (listener.posts.length < 3) {
      listener.taken.push(...post.events)
      response.end()
    } else held = response
  }
  const first = await startNotified(t, [{ url: listener.url }])
  const pushed = await pushSmall(first, 5)
  await pull(`${first.url}/v2/team/app/blobs/${pushed[0]}`)
  await listener.until(() => held !== undefined)
  const closed = first.close()
  listener.behave = undefined
  listener.taken.push(...(listener.posts.at(-1)?.events ?? []))
  held?.end()
  await closed

  listener.behave = (response) => response.writeHead(503).end()
  const second = await startNotified(t, [{ url: listener.url }], { root: first.root })
  t.equal(await notificationMetric(second, 'queued', listener.url), 6 - listener.taken.length)
  listener.behave = undefined
  await listener.until(() => listener.taken.length === 6)
  t.same(digestsTaken(listener), [...pushed, pushed[0]], 'each once, and the pull was not forgotten')
  t.equal(listener.taken.at(-1)?.action, 'pull')
})

test('a receiver that holds its answer back does not hold up the end', async (t) => {
  const listener = await Listener.start(t)
  listener.behave = () => undefined
  const mirror = await startNotified(t, [{ url: listener.url, timeout: '1h' }])
  await pushSmall(mirror, 1)
  await listener.until(() => listener.posts.length === 1)
  await mirror.close()
  t.pass('closed')
})

test('what waits for a receiver that is not configured any more is kept for a week', async (t) => {
  const clock = { now: 1_700_000_000_000 }
  const listener = await Listener.start(t)
  const upstream = await simulate(t)
  listener.behave = (response) => response.writeHead(500).end()
  const root = t.testdir()
  const restart = async (config: Record<string, unknown>): Promise<Mirror> =>
    startMirror(t, upstream, { root, now: () => clock.now, config })
  const notifications = [{ ...EAGER, url: listener.url }]
  const first = await restart({ notifications })
  const pushed = await pushSmall(first, 2)
  await first.close()

  clock.now += 6 * 86_400_000
  const without = await restart({})
  t.match(
    without.lines.find(({ endpoint, events }) => endpoint === undefined && events === 2),
    { level: 'warn', dropped: false },
  )
  await without.close()
  listener.behave = undefined
  const again = await restart({ notifications })
  await listener.until(() => listener.taken.length === 2)
  t.same(digestsTaken(listener), pushed)
  listener.behave = (response) => response.writeHead(500).end()
  await pushSmall(again, 2)
  await again.close()

  clock.now += 8 * 86_400_000
  const later = await restart({})
  t.ok(later.lines.some(({ dropped }) => dropped === true))
  t.same(await later.app.metadata.events.endpoints(), [])
})

const PULL: RepositoryEvent = { action: 'pull', kind: 'manifest', repository: 'team/app' }
const PUSH: RepositoryEvent = { action: 'push', kind: 'manifest', repository: 'team/app' }
const CAUSE: EventRequest = { id: '1', addr: undefined, host: undefined, method: 'GET', useragent: undefined }

/** An outbox over a store that commits when it is told to. */
function unattended(endpoints = 1) {
  const lines: string[] = []
  const metrics = createMetrics()
  const log = createLog({ level: 'warn', write: (line) => void lines.push(line) })
  const commits: { readonly bodies: string[]; end(error?: Error): void }[] = []
  const backlogs = Array.from(
    { length: endpoints },
    (_, at) =>
      new Backlog({
        url: `http://hooks.example/${at}`,
        label: `hook ${at}`,
        ignoreActions: [],
        metrics,
        log,
      }),
  )
  const transaction = (fill: (tx: MetadataTransaction) => void): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<undefined>()
    const bodies: string[] = []
    commits.push({ bodies, end: (error) => (error === undefined ? resolve(undefined) : reject(error)) })
    fill(queueing(bodies))
    return promise
  }
  const outbox = new Outbox({
    backlogs,
    metadata: { transaction },
    source: () => ({ addr: 'here:1', instanceID: 'x' }),
    publicUrl: undefined,
    scheme: 'http',
    log,
    now: () => 0,
  })
  const dropped = async (): Promise<number[]> =>
    (await metrics.notificationsDropped.get()).values.map(({ value }) => value)
  return { outbox, commits, lines, dropped, backlogs }
}

function queueing(bodies: string[]): MetadataTransaction {
  const tx: Pick<MetadataTransaction, 'queueEvents'> = {
    queueEvents: (events) => void bodies.push(...events.map(({ body }) => body)),
  }
  return tx as MetadataTransaction
}

test('pulls are gathered while the store is busy, and a write takes them along', async (t) => {
  const { outbox, commits } = unattended()
  for (let i = 0; i < 500; i++) outbox.pulled(PULL, CAUSE)
  t.equal(commits[0]?.bodies.length, 500, 'enough of them are written at once')
  for (let i = 0; i < 2000; i++) outbox.pulled(PULL, CAUSE)
  t.equal(commits.length, 1, 'and while that takes its time, no others')
  commits[0]?.end()
  await eventually('the rest is written', () => commits.length === 2)
  t.equal(commits[1]?.bodies.length, 2000)
  commits[1]?.end()

  outbox.pulled(PULL, CAUSE)
  const bodies: string[] = []
  outbox.queue(queueing(bodies), [PUSH], undefined)
  t.same(
    bodies.map((body) => (JSON.parse(body) as RepositoryEvent).action),
    ['pull', 'push'],
  )
  await outbox.flush()
  t.equal(commits.length, 2, 'there is nothing left to write')
})

test('a receiver that is away for very long misses pulls first, and that is counted', async (t) => {
  const { outbox, lines, dropped, backlogs } = unattended(2)
  backlogs[0]?.count(MOST_PULLS - 1)
  const queued: string[] = []
  const push = (): void => outbox.queue(queueing(queued), [PUSH], undefined)
  outbox.pulled(PULL, CAUSE)
  outbox.pulled(PULL, CAUSE)
  push()
  t.equal(queued.length, 5, 'one pull for the one, two for the other, and a push for both')
  t.same(await dropped(), [1])
  for (let i = 0; i < 10; i++) outbox.pulled(PULL, CAUSE)
  t.equal(lines.length, 1, 'said once')
  t.match(lines[0], /"endpoint":"hook 0"/)
  backlogs[0]?.count(MOST_EVENTS)
  queued.length = 0
  push()
  t.equal(queued.length, 11, 'the other still gets everything')
  backlogs[0]?.count(0)
  queued.length = 0
  push()
  t.equal(queued.length, 2, 'and the one as soon as it has caught up')
  t.same(await dropped(), [12])
})

test('pulls that the store does not take are counted, and break nothing', async (t) => {
  const { outbox, commits, lines, dropped } = unattended()
  outbox.pulled(PULL, CAUSE)
  const flushed = outbox.flush()
  commits[0]?.end(new Error('the disk is full'))
  await flushed
  t.same(await dropped(), [1])
  t.equal(lines.length, 1)
  t.match(lines[0], /the disk is full/)
  outbox.pulled(PULL, CAUSE)
  void outbox.flush()
  t.equal(commits.length, 2)
})
