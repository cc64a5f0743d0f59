/** What a backup, a look at everything and a restore of a large layer cost, through running servers. */
import { createCipheriv, createHash } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'tap'
import { request } from 'undici'
import { content, image, type Content } from '../support/images.ts'
import { Entrepot, entrepot } from '../support/process.ts'
import { pushBlob, pushManifest } from '../support/push.ts'
import '../support/folders-last.ts'

const MiB = 1024 * 1024
const GiB = 1024 * MiB

/** Of the whole life of the process so far, in bytes. */
function peakResident(pid: number | undefined): number {
  const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${String(pid)}/status`, 'utf8'))
  return Number(line?.[1]) * 1024
}

/** The same bytes every time; they are never all in memory. */
function* layer(): Generator<Buffer> {
  const cipher = createCipheriv('aes-256-ctr', Buffer.alloc(32), Buffer.alloc(16))
  const zeros = Buffer.alloc(MiB)
  for (let at = 0; at < GiB; at += MiB) yield cipher.update(zeros)
}

function digestOfLayer(): string {
  const hash = createHash('sha256')
  for (const piece of layer()) hash.update(piece)
  return `sha256:${hash.digest('hex')}`
}

/** An image of that layer alone. */
function imageOf(digest: string): { config: Content; manifest: Content } {
  const { config, manifest } = image({ seed: 'large', layers: [1] })
  const document = JSON.parse(manifest.bytes.toString()) as { layers: { digest: string; size: number }[] }
  Object.assign(document.layers[0]!, { digest, size: GiB })
  return { config, manifest: content(manifest.mediaType, Buffer.from(JSON.stringify(document))) }
}

test(
  'a layer of 1 GiB is saved, looked at and restored in less than 250 MB',
  { skip: process.platform !== 'linux' },
  async (t) => {
    t.setTimeout(240_000)
    const dir = t.testdir({ one: {}, two: {} })
    const config = { upstreams: { 'docker.io': { url: 'http://127.0.0.1:9', default: true } } }
    // As `npm start` does it.
    const start = async (name: string) => {
      const options = { dir: join(dir, name), config }
      const execArgv = ['--max-semi-space-size=8', '--heap-growing-percent=30', '--expose-gc']
      const server = await Entrepot.start(t, {
        ...options,
        env: { MALLOC_ARENA_MAX: '2', MALLOC_TRIM_THRESHOLD_: '131072' },
        execArgv,
      })
      const command = async (...line: string[]): Promise<void> => {
        const { code, stderr } = await entrepot(options, ...line)
        t.match({ code, stderr }, { code: 0, stderr: '' }, line.join(' '))
      }
      const small = (): void => {
        const peak = peakResident(server.program.pid)
        t.ok(peak < 250e6, `${Math.round(peak / MiB)} MiB at the most`)
      }
      return { url: `${server.url}/v2/team/app`, command, small }
    }
    const digest = digestOfLayer()
    const { config: settings, manifest } = imageOf(digest)
    const one = await start('one')
    const begun = await request(`${one.url}/blobs/uploads/`, { method: 'POST' })
    await begun.body.dump()
    const location = new URL(String(begun.headers['location']), one.url).href
    const put = { method: 'PUT' as const, body: Readable.from(layer()), headersTimeout: 90_000 }
    const done = await request(`${location}?digest=${digest}`, put)
    t.equal(done.statusCode, 201)
    await done.body.dump()
    t.equal((await pushBlob(one.url, settings)).status, 201)
    t.equal((await pushManifest(one.url, manifest, '1')).status, 201)

    const file = join(dir, 'backup.tar')
    await one.command('backup', '-o', file)
    t.ok(statSync(file).size > GiB)
    await one.command('verify')
    one.small()

    const two = await start('two')
    await two.command('restore', file)
    two.small()
    const head = await request(`${two.url}/blobs/${digest}`, { method: 'HEAD' })
    t.match(head, { statusCode: 200, headers: { 'content-length': String(GiB) } })
  },
)
