import { test } from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { StallTimeouts } from '../../../src/upstream/transport/stall-timeouts.ts'
import { image } from '../../support/images.ts'
import { bytesOf, connect, failureOf, LATEST, NAME } from '../../support/upstream-client.ts'

const MiB = 1024 * 1024
const large = image({ layers: [32 * MiB], seed: 'large' })
const long = 60_000

void test('slowloris: a body below the least rate is cut, whatever it is of', async (t) => {
  const timeouts = { connect: long, headers: long, idle: 200, minRate: 10_000 }
  const { client, upstream, image, signal } = await connect(t, {}, { timeouts })
  upstream.fault({}, { slowloris: { in: 'body', everyMs: 10 } })
  const { digest } = image.layers[0]!
  const manifest = failureOf(client.manifest(NAME, LATEST, signal))
  const blob = await client.blob(NAME, digest, { from: 0, signal })
  t.match(await failureOf(bytesOf(blob)), { failure: 'unreachable', message: /only \d+ bytes/ })
  t.equal((await manifest).failure, 'unreachable')
  await upstream.log.until((log) => log.inFlight('blob') + log.inFlight('manifest') === 0)
})

void test('slowloris: what came before the body began to trickle is not lost', async (t) => {
  const timeouts = { connect: long, headers: long, idle: 200, minRate: 10_000 }
  const { client, upstream, image, signal } = await connect(t, {}, { timeouts })
  upstream.fault({}, { slowloris: { in: 'body', everyMs: 20, afterBytes: 50_000 } })
  const blob = await client.blob(NAME, image.layers[0]!.digest, { from: 0, signal })
  let received = 0
  const reading = (async () => {
    for await (const batch of blob!.body) for (const chunk of batch) received += chunk.length
  })()
  await failureOf(reading)
  t.ok(received >= 50_000 && received < 51_000, String(received))
})

void test('slowloris: without a least rate, patience has no end', async (t) => {
  for (const minRate of [0, undefined]) {
    const timeouts = { connect: long, headers: long, idle: 5_000, minRate }
    const { client, upstream, signal } = await connect(t, {}, { timeouts }, image({ layers: [40] }))
    upstream.fault({ kind: 'blob' }, { slowloris: { in: 'body', everyMs: 20 } })
    const [layer] = image({ layers: [40] }).layers
    const blob = await client.blob(NAME, layer!.digest, { from: 0, signal })
    t.ok((await bytesOf(blob)).equals(layer!.bytes))
  }
})

void test('whoever does not read is not taken for a slow upstream', async (t) => {
  const timeouts = { connect: long, headers: long, idle: 400, minRate: MiB }
  const { client, upstream, signal } = await connect(t, {}, { timeouts }, large)
  const { digest, bytes } = large.layers[0]!
  const blob = await client.blob(NAME, digest, { from: 0, signal })
  await upstream.log.until((log) => log.bytesSent('blob') > 2 * MiB)
  await sleep(2000) // five times as long as any pause of upstream's may take
  t.ok((await bytesOf(blob)).equals(bytes))
})

void test('informational: a head is waited for only so long, whatever comes before it', async (t) => {
  const timeouts = { connect: long, headers: 300, idle: long }
  for (const behaviour of [
    { informational: 'endless' },
    { slowloris: { in: 'head', everyMs: 10 } },
    { hang: 'headers' },
  ] as const) {
    const { client, upstream, signal } = await connect(t, {}, { timeouts })
    const rule = upstream.fault({}, behaviour)
    const failure = await failureOf(client.manifest(NAME, LATEST, signal))
    t.match(failure, { failure: 'unreachable', message: /no head within 300 ms/ })
    t.equal(rule.hits, 1, 'and it is not tried again')
    await upstream.log.until((log) => log.inFlight('manifest') === 0)
  }
})

void test('a request that goes to a second connection is timed once, from then on', async (t) => {
  const limits = { headers: 10, idle: long }
  let gaveUp = 0
  const pace = new StallTimeouts(limits, () => (gaveUp += 1))
  pace.asked()
  pace.asked()
  pace.end()
  // Of two time-outs of one length the earlier ends first.
  await new Promise((resolve) => new StallTimeouts(limits, resolve).asked())
  t.equal(gaveUp, 0)
})

void test('informational: a few of them change nothing', async (t) => {
  const { client, upstream, image, signal } = await connect(t)
  upstream.fault({}, { informational: 10 })
  t.equal((await client.manifest(NAME, LATEST, signal))?.digest, image.manifest.digest)
})
