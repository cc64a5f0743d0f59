/** A layer that is still coming leaves by the kernel or by copying: its clients cannot tell which. */
import { once } from 'node:events'
import { readdirSync, readlinkSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { test, type Test } from 'tap'
import { HOLD_BACK } from '../../src/cache/blobs/hold-back.ts'
import { eventually, pull, pullSame, settled, simulate, startMirror, type Mirror } from '../support/app.ts'
import { ENGINES, type Engine } from '../support/engines.ts'
import { image, type Content } from '../support/images.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

const MiB = 2 ** 20
const SIZE = 8 * MiB

interface Scene {
  readonly upstream: UpstreamSimulator
  readonly mirror: Mirror
  readonly layer: Content
  readonly blob: string
}

async function start(t: Test, engine: Engine, idleMs?: number): Promise<Scene> {
  const upstream = await simulate(t, { bytesPerSecond: 16 * MiB })
  const big = image({ layers: [SIZE], seed: t.name })
  upstream.addImage('library/big', '1', big)
  const mirror = await startMirror(t, upstream, {
    config: { server: { port: 0, ...engine.server } },
    ...engine.overrides,
    ...(idleMs === undefined ? {} : { timeouts: { idleMs } }),
  })
  const layer = big.layers[0]!
  return { upstream, mirror, layer, blob: `${mirror.url}/v2/library/big/blobs/${layer.digest}` }
}

const has = (bytes: number) => (log: UpstreamSimulator['log']) => log.bytesSent('blob') > bytes

/** A connection that has asked for it, and of which nobody reads. */
async function ask(t: Test, blob: string): Promise<Socket> {
  const { hostname, port, host, pathname } = new URL(blob)
  const socket = connect(Number(port), hostname)
  t.teardown(() => socket.destroy())
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  socket.write(`GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
  return socket
}

/** Of blobs, here or coming. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd')
    .map((descriptor) => {
      try {
        return readlinkSync(`/proc/self/fd/${descriptor}`)
      } catch {
        return 'closed meanwhile'
      }
    })
    .filter((file) => /\/(ingest|blobs)\//.test(file))
}

/** The lines of its answers. */
function answers(mirror: Mirror): Record<string, unknown>[] {
  return mirror.lines.filter(({ route }) => route === 'blob')
}

for (const engine of ENGINES) {
  const { by } = engine

  test(`clients that come early, late and for parts get what they asked for, ${by}`, async (t) => {
    const { upstream, mirror, layer, blob } = await start(t, engine)
    const early = [pullSame(blob, layer), pullSame(blob, layer)]
    await upstream.log.until(has(3 * MiB))
    const late = pullSame(blob, layer)
    const inside = pull(blob, { range: `bytes=${MiB + 1}-${6 * MiB}` })
    const tail = pull(blob, { range: `bytes=${5 * MiB}-` })
    for (const pulled of await Promise.all([...early, late])) t.ok(pulled.status === 200 && pulled.same)
    t.ok((await inside).body.equals(layer.bytes.subarray(MiB + 1, 6 * MiB + 1)))
    t.ok((await tail).body.equals(layer.bytes.subarray(5 * MiB)))
    t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 1)
    await eventually('all are in the log', () => answers(mirror).length === 5)
    t.same(
      answers(mirror)
        .map(({ bytes }) => bytes)
        .toSorted(),
      [SIZE, SIZE, SIZE, 5 * MiB, 3 * MiB].toSorted(),
      'counted to the byte',
    )
    t.ok(answers(mirror).every((line) => line['sendfile'] === (by === 'by the kernel' ? true : undefined)))
  })

  test(`what turns out wrong is broken off before its last bytes, ${by}`, async (t) => {
    const { upstream, mirror, layer, blob } = await start(t, engine)
    upstream.fault({ kind: 'blob' }, { corrupt: 'tail' })
    const pulled = await Promise.all([pull(blob), pull(blob)])
    for (const { status, broken, body } of pulled) {
      t.equal(status, 200)
      t.ok(broken, 'never ended')
      t.ok(body.length <= SIZE - HOLD_BACK)
      t.ok(body.equals(layer.bytes.subarray(0, body.length)))
    }
    await settled(mirror)
  })

  test(`a first try that was wrong at its end costs nobody a byte, ${by}`, async (t) => {
    const { upstream, layer, blob } = await start(t, engine)
    upstream.set({ bytesPerSecond: undefined })
    upstream.fault({ kind: 'blob', times: 1 }, { corrupt: 'tail' })
    for (const { status, same } of await Promise.all([pullSame(blob, layer), pullSame(blob, layer)])) {
      t.ok(status === 200 && same)
    }
    t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 2)
  })

  test(`a first try that was wrong where it was sent is broken off, ${by}`, async (t) => {
    const { upstream, blob, layer } = await start(t, engine)
    upstream.set({ bytesPerSecond: undefined })
    upstream.fault({ kind: 'blob', times: 1 }, { corrupt: MiB })
    const { status, broken, body } = await pull(blob)
    t.equal(status, 200)
    t.ok(broken)
    t.ok(body.length > MiB && body.length <= SIZE - HOLD_BACK)
    t.ok((await pullSame(blob, layer)).same, 'who comes then gets the right one')
  })

  test(`clients that reset, stall or take a byte at a time cost the others nothing, ${by}`, async (t) => {
    const { upstream, mirror, layer, blob } = await start(t, engine, 2500)
    const [resets, stalls, sips] = [await ask(t, blob), await ask(t, blob), await ask(t, blob)]
    const other = pullSame(blob, layer)
    stalls.pause()
    for (let sip = 1; sip <= 20; sip++) {
      await upstream.log.until(has((sip * SIZE) / 25))
      while (sips.read(1) === null) await once(sips, 'readable')
      if (sip === 10) resets.resetAndDestroy()
    }
    const rest: Buffer[] = []
    let taken = 20
    for await (const chunk of sips as AsyncIterable<Buffer>) {
      rest.push(chunk)
      taken += chunk.length
      if (taken > SIZE && Buffer.concat(rest).subarray(-100).equals(layer.bytes.subarray(-100))) break
    }
    t.ok(Buffer.concat(rest).subarray(-SIZE).equals(layer.bytes), 'a slow one gets everything')
    t.ok((await other).same)
    await eventually('all are over', () => answers(mirror).length === 4)
    const lines = answers(mirror)
    t.equal(lines.filter(({ timedOut }) => timedOut === true).length, 1, 'who takes nothing is left')
    t.equal(lines.filter(({ bytes }) => bytes === SIZE).length, 2)
    t.equal(upstream.log.count({ kind: 'blob', method: 'GET' }), 1)
    await settled(mirror)
    await eventually('no file is left open', () => !openFiles().some((it) => it.startsWith(mirror.root)))
  })
}
