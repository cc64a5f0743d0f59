/** How events get to their receivers: each is sent until it is taken, in order. */
import { test } from 'tap'
import { eventually } from '../../support/app.ts'
import { Listener, type Behaviour } from '../../support/listener.ts'
import { digestsTaken, notificationMetric, pushSmall, startNotified } from '../../support/notified.ts'

const REFUSALS: Record<string, Behaviour> = {
  '500': (response) => response.writeHead(500).end('no'),
  '404': (response) => response.writeHead(404).end(),
  '429': (response) => response.writeHead(429, { 'retry-after': '1' }).end(),
  'a reset': (response) => void response.socket?.resetAndDestroy(),
  'half a head': (response) => void response.socket?.end('HTTP/1.1 200 O'),
  nonsense: (response) => void response.socket?.end('nonsense\r\n\r\n'),
}

for (const [name, refuse] of Object.entries(REFUSALS)) {
  test(`${name} is no delivery: the event is sent again, before all that come after it`, async (t) => {
    const listener = await Listener.start(t)
    const mirror = await startNotified(t, [{ url: listener.url }])
    let posts = 0
    listener.behave = (response, post) => {
      // Every third one is taken.
      if (++posts % 3 !== 0) refuse(response, post)
      else {
        listener.taken.push(...post.events)
        response.end()
      }
    }
    const pushed = await pushSmall(mirror, 5)
    await listener.until(() => listener.taken.length === 5)
    t.same(digestsTaken(listener), pushed)
    t.same(
      listener.posts.map(({ events: [event] }) => event?.target.digest),
      pushed.flatMap((digest) => [digest, digest, digest]),
    )
    const ids = listener.posts.map(({ events: [event] }) => event?.id)
    t.equal(new Set(ids).size, 5, 'what is sent again has the same id')
    const { host } = new URL(listener.url)
    t.equal(await notificationMetric(mirror, 'failed_total', listener.url), 10)
    t.equal(await notificationMetric(mirror, 'delivered_total', listener.url), 5)
    const told = mirror.lines.filter(({ msg }) => String(msg).startsWith('notifications are'))
    t.equal(told.filter(({ msg }) => msg === 'notifications are not taken').length, 5, 'said once each time')
    t.match(told[0], { level: 'warn', endpoint: host })
  })
}

test('a redirect is an answer, and is not followed', async (t) => {
  const [listener, other] = [await Listener.start(t), await Listener.start(t)]
  listener.behave = (response) => response.writeHead(307, { location: other.url }).end()
  const mirror = await startNotified(t, [{ url: listener.url }])
  await pushSmall(mirror, 2)
  await listener.until(() => listener.posts.length === 2)
  t.equal(other.posts.length, 0)
})

test('a receiver that takes too long is asked again', async (t) => {
  const listener = await Listener.start(t)
  let stuck = 2
  listener.behave = (response, post) => {
    // Nothing at first, then one interim answer after the other.
    if (stuck-- === 2) return
    if (stuck === 0) {
      const more = setInterval(() => response.writeProcessing(), 10)
      response.once('close', () => clearInterval(more))
      return
    }
    listener.taken.push(...post.events)
    response.end()
  }
  const mirror = await startNotified(t, [{ url: listener.url, timeout: '50ms' }])
  const pushed = await pushSmall(mirror, 1)
  await listener.until(() => listener.taken.length === 1)
  t.same(digestsTaken(listener), pushed)
})

test('an answer whose body never ends is an answer', async (t) => {
  const listener = await Listener.start(t)
  listener.behave = (response, post) => {
    listener.taken.push(...post.events)
    response.write('and')
  }
  const mirror = await startNotified(t, [{ url: listener.url, timeout: '50ms' }])
  const pushed = await pushSmall(mirror, 3)
  await listener.until(() => listener.taken.length === 3)
  t.same(digestsTaken(listener), pushed)
})

test('a receiver that is away gets everything when it comes back', async (t) => {
  const listener = await Listener.start(t)
  const mirror = await startNotified(t, [{ url: listener.url }])
  await listener.stop()
  const pushed = await pushSmall(mirror, 3)
  await eventually(
    'it was missed',
    async () => (await notificationMetric(mirror, 'failed_total', listener.url)) > 3,
  )
  await listener.comeBack()
  await listener.until(() => listener.taken.length === 3)
  t.same(digestsTaken(listener), pushed)
  await eventually('that is said', () =>
    mirror.lines.some(({ msg }) => msg === 'notifications are taken again'),
  )
  t.equal(mirror.lines.filter(({ msg }) => msg === 'notifications are not taken').length, 1)
})
