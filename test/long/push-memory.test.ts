/** What a push of a large layer costs a real entrepot. */
import { createCipheriv, createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Readable } from 'node:stream'
import { test } from 'tap'
import { request } from 'undici'
import { Entrepot } from '../support/process.ts'
import '../support/folders-last.ts'

const MiB = 1024 * 1024
const GiB = 1024 * MiB

/** Of the whole life of the process so far, in bytes. */
function peakResident(pid: number): number {
  const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return Number(line?.[1]) * 1024
}

/** The same bytes every time; they are never all in memory. */
function* layer(): Generator<Buffer> {
  const cipher = createCipheriv('aes-256-ctr', Buffer.alloc(32), Buffer.alloc(16))
  const zeros = Buffer.alloc(MiB)
  for (let at = 0; at < GiB; at += MiB) yield cipher.update(zeros)
}

test('a layer of 1 GiB is taken in less than 250 MB', { skip: process.platform !== 'linux' }, async (t) => {
  t.setTimeout(600_000)
  const hash = createHash('sha256')
  for (const piece of layer()) hash.update(piece)
  const digest = `sha256:${hash.digest('hex')}`
  // As `npm start` does it.
  const entrepot = await Entrepot.start(t, {
    dir: t.testdir(),
    config: { local: ['team/**'], upstreams: { 'docker.io': { url: 'http://127.0.0.1:9', default: true } } },
    env: { MALLOC_ARENA_MAX: '2' },
    execArgv: ['--max-semi-space-size=8', '--heap-growing-percent=30', '--expose-gc'],
  })
  const pid = entrepot.program.pid ?? 0
  const idle = peakResident(pid)
  const begun = await request(`${entrepot.url}/v2/team/app/blobs/uploads/`, { method: 'POST' })
  await begun.body.dump()
  const location = `${entrepot.url}${String(begun.headers['location'])}`
  const sent = await request(location, { method: 'PATCH', body: Readable.from(layer()) })
  t.equal(sent.statusCode, 202)
  await sent.body.dump()
  const done = await request(`${location}?digest=${digest}`, { method: 'PUT', headersTimeout: 90_000 })
  t.equal(done.statusCode, 201)
  await done.body.dump()
  const peak = peakResident(pid)
  t.comment(`${Math.round(idle / MiB)} MiB before, ${Math.round(peak / MiB)} MiB at the most`)
  t.ok(peak < 250e6, `${peak} bytes`)
})
