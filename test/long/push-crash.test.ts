/** A real entrepot, killed again and again in the midst of pushes, on one folder. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { request } from 'undici'
import { eventually } from '../support/app.ts'
import { lookAtRest, partialsIn } from '../support/at-rest.ts'
import { image, type Content, type Image } from '../support/images.ts'
import { randomOf } from '../support/power-loss-luck.ts'
import { Entrepot } from '../support/process.ts'

const KiB = 1024
const MiB = 1024 * KiB

const KILLS = 10
const PUSHES = 200
const CLIENTS = 8

const WAYS = ['whole', 'put', 'streamed', 'chunks'] as const
type Way = (typeof WAYS)[number]

/** One blob on its way, over several lives of the server. */
interface Upload {
  readonly repository: string
  readonly blob: Content
  readonly way: Way
  /** Of its session, once the client was told of it. */
  location?: string
  /** Bytes that the server said it has. */
  told: number
  /** It was asked to finish: the session may be gone, with or without the blob. */
  finishing: boolean
}

interface Push {
  readonly repository: string
  readonly tag: string
  readonly image: Image
  readonly uploads: Map<string, Upload>
}

/** What was acknowledged so far, and what must be true whatever happens. */
class Ledger {
  readonly contents = new Map<string, Content>()
  /** `<repository> <digest>`, acknowledged by 201 or by a HEAD 200. */
  readonly blobs = new Map<string, Content>()
  /** `<repository>:<tag>` */
  readonly tags = new Map<string, Content>()
  /** `<repository>` -> what `latest` may be: what was acknowledged, and what was under way since. */
  readonly latest = new Map<string, Content[]>()
  /** Session -> its bytes. */
  readonly sessions = new Map<string, Content>()
  readonly faults: string[] = []
  acknowledged = 0
  onAcknowledged: () => void = () => undefined

  acknowledge(): void {
    this.acknowledged++
    this.onAcknowledged()
  }
}

interface Answer {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly body: Buffer
}

/** Of one life; every request of it fails once the server was killed. */
class Client {
  readonly #url: string
  readonly #ledger: Ledger
  readonly #random: () => number

  constructor(url: string, ledger: Ledger, random: () => number) {
    this.#url = url
    this.#ledger = ledger
    this.#random = random
  }

  async ask(
    method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE',
    where: string,
    body: Buffer | Readable | null = null,
    headers: Record<string, string> = {},
  ): Promise<Answer> {
    const url = `${this.#url}${where.startsWith('/v2/') ? '' : '/v2/'}${where}`
    const answer = await request(url, { method, body, headers, headersTimeout: 60_000 })
    const { statusCode: status } = answer
    return { status, headers: answer.headers, body: Buffer.from(await answer.body.arrayBuffer()) }
  }

  async push({ repository, tag, image, uploads }: Push): Promise<void> {
    for (const [digest, upload] of uploads) {
      await this.#upload(upload)
      uploads.delete(digest)
    }
    const { latest, tags } = this.#ledger
    const { manifest } = image
    latest.set(repository, [...(latest.get(repository) ?? []), manifest])
    const headers = { 'content-type': manifest.mediaType }
    const { status } = await this.ask(
      'PUT',
      `${repository}/manifests/${tag}?tag=latest`,
      manifest.bytes,
      headers,
    )
    if (status !== 201) this.#fault(`a manifest was answered ${status}`)
    tags.set(`${repository}:${tag}`, manifest)
    latest.set(repository, [manifest])
    this.#ledger.acknowledge()
  }

  async #upload(upload: Upload): Promise<void> {
    const { repository, blob } = upload
    const { status, headers } = await this.ask('HEAD', `${repository}/blobs/${blob.digest}`)
    if (status === 200 && Number(headers['content-length']) !== blob.bytes.length)
      this.#fault('a HEAD tells another size')
    if (status === 200 && !upload.finishing) this.#fault('a blob is here that was never finished')
    if (status !== 200) await this.#send(upload)
    this.#ledger.blobs.set(`${repository} ${blob.digest}`, blob)
    this.#ledger.acknowledge()
  }

  async #send(upload: Upload): Promise<void> {
    const { repository, blob, way } = upload
    if (way === 'whole') {
      upload.finishing = true
      const { status } = await this.ask(
        'POST',
        `${repository}/blobs/uploads/?digest=${blob.digest}`,
        blob.bytes,
      )
      if (status !== 201) this.#fault(`a whole blob was answered ${status}`)
      return
    }
    const from = await this.#begin(upload)
    const location = upload.location ?? ''
    const rest = blob.bytes.subarray(from)
    let last: Buffer | null = null
    if (way === 'streamed' && rest.length > 0) {
      const { status } = await this.ask('PATCH', location, Readable.from(this.#slowly(rest)))
      if (status !== 202) this.#fault(`a stream was answered ${status}`)
      upload.told = blob.bytes.length
      this.#ledger.acknowledge()
    } else if (way === 'chunks') {
      const size = Math.ceil(blob.bytes.length / 3)
      let at = from
      for (; at + size < blob.bytes.length; at += size) {
        const { status } = await this.ask('PATCH', location, blob.bytes.subarray(at, at + size), {
          'content-range': `${at}-${at + size - 1}`,
        })
        if (status !== 202) this.#fault(`a chunk was answered ${status}`)
        upload.told = at + size
        this.#ledger.acknowledge()
      }
      last = blob.bytes.subarray(at)
    } else last = rest
    upload.finishing = true
    const { status } = await this.ask('PUT', `${location}?digest=${blob.digest}`, last)
    if (status !== 201) this.#fault(`the end of a blob was answered ${status}`)
  }

  /** @returns how many bytes are there already */
  async #begin(upload: Upload): Promise<number> {
    const { repository, blob } = upload
    if (upload.location !== undefined) {
      const { status, headers } = await this.ask('GET', upload.location)
      if (status === 204) {
        const there = Number(String(headers['range']).slice('0-'.length)) + 1
        if (there < upload.told) this.#fault(`of ${upload.told} bytes that were told ${there} are here`)
        // One byte or none: nobody can tell.
        if (there > 1) return there
        await this.ask('DELETE', upload.location)
      } else if (status !== 404 || !upload.finishing) this.#fault(`a session was lost: ${status}`)
    }
    const { status, headers } = await this.ask('POST', `${repository}/blobs/uploads/`)
    if (status !== 202) this.#fault(`a session was answered ${status}`)
    upload.location = String(headers['location'])
    upload.told = 0
    this.#ledger.sessions.set(path.basename(upload.location), blob)
    return 0
  }

  async *#slowly(bytes: Buffer): AsyncGenerator<Buffer> {
    for (let at = 0; at < bytes.length; at += 256 * KiB) {
      yield bytes.subarray(at, at + 256 * KiB)
      await sleep(this.#random() * 4)
    }
  }

  #fault(what: string): void {
    this.#ledger.faults.push(what)
  }
}

/** Everything acknowledged is pulled with the right bytes; of the rest, all or nothing. */
async function checkPulls(client: Client, ledger: Ledger, only: (key: string) => boolean): Promise<string[]> {
  const faults: string[] = []
  const isAt = async (where: string, content: Content): Promise<void> => {
    const { status, body } = await client.ask('GET', where)
    if (status !== 200 || !body.equals(content.bytes)) faults.push(`${where} is answered ${status}`)
  }
  const acknowledged = [...ledger.blobs, ...ledger.tags].filter(([key]) => only(key))
  await Promise.all(
    acknowledged.map(([key, content]) => {
      const [repository, digest] = key.split(' ')
      return isAt(
        digest === undefined ? key.replace(':', '/manifests/') : `${repository}/blobs/${digest}`,
        content,
      )
    }),
  )
  for (const [repository, possible] of ledger.latest) {
    const { status, body } = await client.ask('GET', `${repository}/manifests/latest`)
    const found = possible.find(({ bytes }) => bytes.equals(body))
    const first = !ledger.tags.has(`${repository}:0`)
    if (found === undefined && !(status === 404 && first)) faults.push(`${repository}:latest is ${status}`)
  }
  return faults
}

/** What lies there between two lives: whole blobs, and beginnings of what clients sent. */
function checkFiles(root: string, ledger: Ledger, known: Set<string>): string[] {
  const { blobs, faults } = lookAtRest(root, ledger.contents, known)
  for (const digest of blobs) known.add(digest)
  const strange = partialsIn(root).flatMap((name) => {
    const session = /^upload-(.+)\.part$/.exec(name)?.[1]
    if (session === undefined) return []
    const there = readFileSync(path.join(root, 'ingest', name))
    const blob = ledger.sessions.get(session)
    // Who was killed while it answered told nobody of its session: some single POST's, by what it holds.
    const candidates = blob === undefined ? [...ledger.contents.values()] : [blob]
    const isBeginning = candidates.some(({ bytes }) => bytes.subarray(0, there.length).equals(there))
    return isBeginning ? [] : [`${name} holds what nobody sent`]
  })
  return [...faults, ...strange]
}

test('two hundred pushes, killed wherever they are: what was acknowledged is here, and half ones go on', async (t) => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
  t.comment(`SEED=${seed}`)
  t.setTimeout(600_000)
  const random = randomOf(seed)
  const dir = t.testdir()
  const root = path.join(dir, 'data')
  const upstreams = { 'docker.io': { url: 'http://127.0.0.1:9', default: true } }
  const config = { local: ['team/**'], upstreams }
  const ledger = new Ledger()
  const known = new Set<string>()

  const queues = Array.from({ length: CLIENTS }, (_, client) =>
    Array.from({ length: PUSHES / CLIENTS }, (_, i): Push => {
      const repository = `team/app-${client}`
      const size = random() < 0.15 ? random() * 3 * MiB : random() * 200 * KiB
      const made = image({ layers: [Math.ceil(size)], seed: `${seed}/${client}/${i}` })
      for (const content of [made.manifest, ...made.blobs]) ledger.contents.set(content.digest, content)
      const uploads = made.blobs.map((blob): [string, Upload] => {
        const way = WAYS[Math.floor(random() * WAYS.length)] ?? 'put'
        return [blob.digest, { repository, blob, way, told: 0, finishing: false }]
      })
      return { repository, tag: String(i), image: made, uploads: new Map(uploads) }
    }),
  )
  const total = PUSHES * 3

  let resumed = 0
  let checked = new Set<string>()
  for (let life = 0; life <= KILLS; life++) {
    const entrepot = await Entrepot.start(t, { dir, config })
    const client = new Client(entrepot.url, ledger, random)
    const isNew = (key: string): boolean => !checked.has(key)
    t.strictSame(await checkPulls(client, ledger, isNew), [], `what was acknowledged before life ${life}`)
    checked = new Set([...ledger.blobs.keys(), ...ledger.tags.keys()])
    resumed += queues
      .flat()
      .filter(({ uploads }) => [...uploads.values()].some(({ told }) => told > 0)).length

    const killed = Promise.withResolvers<undefined>()
    if (life < KILLS) {
      const enough = Math.ceil(((life + 0.2 + 0.6 * random()) * total) / KILLS)
      ledger.onAcknowledged = () => {
        if (ledger.acknowledged < enough) return
        ledger.onAcknowledged = () => undefined
        setTimeout(() => {
          entrepot.program.kill('SIGKILL')
          killed.resolve(undefined)
        }, random() * 20)
      }
    }
    const results = await Promise.allSettled(
      queues.map(async (queue) => {
        for (let next = queue[0]; next !== undefined; next = queue[0]) {
          await client.push(next)
          queue.shift()
        }
      }),
    )
    if (life === KILLS) {
      t.strictSame(
        results.filter(({ status }) => status === 'rejected'),
        [],
      )
      t.strictSame(await checkPulls(client, ledger, () => true), [], 'everything is here')
      t.equal(ledger.tags.size, PUSHES)
      await entrepot.program.stop()
    } else {
      await killed.promise
      await entrepot.program.exited
    }
    t.strictSame([...checkFiles(root, ledger, known), ...ledger.faults], [], `after life ${life}`)
  }
  t.ok(resumed > 0, `${resumed} went on`)

  // What nobody came back for: sessions of which no client was told.
  const orphans = partialsIn(root).filter((name) => name.endsWith('.part'))
  for (const name of orphans) t.notOk(ledger.sessions.has(name.slice('upload-'.length, -'.part'.length)))
  const last = await Entrepot.start(t, { dir, config: { ...config, push: { sessionTtl: '1ms' } } })
  await eventually('nothing is left half-way', () => partialsIn(root).length === 0)
  await last.program.stop()
})
