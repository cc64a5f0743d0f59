/** Strangers who want the server to stop: what they send is made to cost, and everybody else is served all the same. */
import { join } from 'node:path'
import { test, type Test } from 'tap'
import type { Entrepot } from '../support/process.ts'
import { Program } from '../support/programs.ts'
import { ask, longestAnswer, resident, startAsUsual } from '../support/strangers/watching.ts'
import '../support/folders-last.ts'

const MiB = 1024 * 1024
const MOST_RESIDENT = 300 * MiB
/** Of an answer to `/livez`. */
const PATIENCE_MS = 1000
/** A machine that is busy with something else is slow by itself: what keeps everybody waiting does so every time. */
const ATTEMPTS = 3
/** After they have left. */
const WELL_WITHIN_MS = 2000

const FOLDER = join(import.meta.dirname, '../support/strangers')

function start(t: Test, upstream: string): Promise<Entrepot> {
  const config = { local: ['team/**'], upstreams: { 'docker.io': { url: upstream, default: true } } }
  return startAsUsual(t, { dir: t.testdir(), config })
}

async function registry(t: Test): Promise<string> {
  const program = new Program(t, process.execPath, [join(FOLDER, 'registry.ts')], {})
  await program.ready(() => program.stdout.includes('\n'))
  return program.stdout.trim()
}

/** @returns the shortest of what a few attempts make of it, until one is short enough */
async function longestOfAny(t: Test, attempt: (nth: number) => Promise<number>): Promise<number> {
  let longest = Infinity
  for (let nth = 0; nth < ATTEMPTS && longest > PATIENCE_MS; nth += 1) {
    longest = Math.min(longest, await attempt(nth))
    t.comment(`${Math.round(longest)} ms`)
  }
  return longest
}

async function pullAll(url: string, count: number, atOnce: number, first = 0): Promise<number[]> {
  const numbers = Array.from({ length: count }, (_, at) => first + at)
  const bytes: number[] = []
  const one = async (): Promise<void> => {
    for (let tag = numbers.shift(); tag !== undefined; tag = numbers.shift()) {
      const answer = await fetch(`${url}/${tag}`)
      bytes.push(answer.status === 200 ? (await answer.arrayBuffer()).byteLength : 0)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, one))
  return bytes
}

const linuxOnly = { skip: process.platform !== 'linux' }

test('120 images whose layer has 95,000 annotations are held in 300 MiB', linuxOnly, async (t) => {
  const entrepot = await start(t, await registry(t))
  const bytes = await pullAll(`${entrepot.url}/v2/library/annotated/manifests`, 120, 4)
  t.equal(bytes.filter((size) => size > 1.2e6).length, 120)
  const pid = entrepot.program.pid ?? 0
  const [now, peak] = [resident(pid, 'VmRSS'), resident(pid, 'VmHWM')]
  t.comment(`${Math.round(now / MiB)} MiB, at the most ${Math.round(peak / MiB)} MiB`)
  t.ok(peak <= MOST_RESIDENT, `${peak} bytes`)
})

test('60 manifests of 4 MiB at once keep nobody waiting', linuxOnly, async (t) => {
  const entrepot = await start(t, await registry(t))
  const longest = await longestOfAny(t, async (nth) => {
    const pulls = pullAll(`${entrepot.url}/v2/library/large/manifests`, 60, 60, 60 * nth)
    const answer = await longestAnswer(entrepot, pulls)
    t.ok((await pulls).some((size) => size > 2e6))
    return answer
  })
  t.ok(longest <= PATIENCE_MS, `${longest} ms`)
})

test('480,000 tags in one page, asked for by four at once, keep nobody waiting', linuxOnly, async (t) => {
  const entrepot = await start(t, await registry(t))
  const longest = await longestOfAny(t, async () => {
    const pages = Promise.all(
      Array.from({ length: 4 }, async (_, at) => {
        const query = at % 2 === 0 ? '' : `?n=100&last=release-${at}`
        const answer = await fetch(`${entrepot.url}/v2/library/tagged/tags/list${query}`)
        return ((await answer.json()) as { tags: string[] }).tags
      }),
    )
    const answer = await longestAnswer(entrepot, pages)
    for (const [at, tags] of (await pages).entries()) {
      t.equal(tags.length, at % 2 === 0 ? 480_000 : 100)
      t.equal(tags[0], at % 2 === 0 ? 'release-0' : `release-${at}0`)
    }
    return answer
  })
  t.ok(longest <= PATIENCE_MS, `${longest} ms`)
})

for (const [what, method, path] of [
  ['that is refused', 'POST', '/v2/library/app/blobs/uploads/'],
  ['that is served without it', 'GET', '/v2/'],
  ['that is a push', 'POST', `/v2/team/app/blobs/uploads/?digest=sha256:${'a'.repeat(64)}`],
  ['that is a manifest', 'PUT', '/v2/team/app/manifests/1'],
]) {
  test(`64 bodies of chunks of one byte, in a request ${what}, keep nobody waiting`, linuxOnly, async (t) => {
    const entrepot = await start(t, 'http://127.0.0.1:9')
    let after = Infinity
    const longest = await longestOfAny(t, async () => {
      const strangers = new Program(
        t,
        process.execPath,
        [join(FOLDER, 'chunks.ts'), entrepot.port, '64', '5', String(method), String(path)],
        {},
      )
      const answer = await longestAnswer(entrepot, strangers.exited)
      after = Math.min(after, await ask(entrepot))
      t.comment(strangers.stdout.trim())
      return answer
    })
    t.ok(longest <= PATIENCE_MS, `${longest} ms`)
    t.ok(after <= WELL_WITHIN_MS, `${after} ms after they left`)
  })
}
