/**
 * That the emulated clients keep the rules of the real ones: before a bad registry in the mirror's place.
 */
import { test, type Test } from 'tap'
import { simulate } from '../support/app.ts'
import { CLIENTS } from '../support/clients/all.ts'
import { run, type Client, type Outcome } from '../support/clients/client.ts'
import { image, index } from '../support/images.ts'
import type { Behaviour, Matcher } from '../support/upstream-rules.ts'
import type { UpstreamSimulator } from '../support/upstream.ts'

const AMD64 = image({ layers: [700_000, 1_000] })
const GREETING = index({ images: { amd64: AMD64 } })
const LAYER = AMD64.layers[0]!.digest
const NAMES = { repository: 'library/greeting', tag: '1' }
const PREFIXED = `docker.io/${NAMES.repository}`

async function registry(t: Test): Promise<UpstreamSimulator> {
  const simulator = await simulate(t)
  for (const name of [NAMES.repository, PREFIXED]) simulator.addImage(name, NAMES.tag, GREETING)
  return simulator
}

function kindOf({ name }: Client): string {
  return name.split(' ')[0] ?? name
}

interface Expectation {
  ending: Outcome['ending']
  /** Percent from the mirror; default: all or nothing of it, as the ending has it. */
  share?: number
  /** At least, in seconds. */
  took?: number
  /** GETs of the layer that the mirror has seen. */
  asked?: number
}

const ELSEWHERE: Expectation = { ending: 'pulled', share: 0 }
const FAILED: Expectation = { ending: 'failed' }
const HUNG: Expectation = { ending: 'hung' }

/** By the name of the client, with its version or without. */
type Expectations = Readonly<Record<string, Expectation>>

const BAD_MIRRORS: Readonly<Record<string, { fault: [Matcher, Behaviour]; expect: Expectations }>> = {
  'that never answers': {
    fault: [{ kind: 'manifest' }, { hang: 'headers' }],
    expect: {
      dockerd: HUNG,
      containerd: HUNG,
      // Its one time-out, for the tag and for both manifests.
      'containerd 2.3 (parallel)': { ending: 'pulled', took: 90 },
      'containerd 2.4': { ending: 'pulled', took: 90 },
      'Docker 29': { ending: 'pulled', took: 90 },
      // There is no other host: it waits as often as it may ask.
      'Docker 29 (prefix)': { ...FAILED, took: 30 },
      podman: HUNG,
      BuildKit: HUNG,
      crane: HUNG,
    },
  },
  'that refuses manifests': {
    fault: [{ kind: 'manifest' }, { status: 503 }],
    expect: {
      dockerd: ELSEWHERE,
      // Each request for itself: the blobs are had there.
      containerd: { ending: 'pulled', share: 99.8 },
      'Docker 29': { ending: 'pulled', share: 99.8 },
      'Docker 29 (prefix)': FAILED,
      podman: ELSEWHERE,
      BuildKit: { ending: 'pulled', share: 99.8 },
      crane: { ...FAILED, took: 4 },
    },
  },
  'that refuses a layer': {
    fault: [{ ref: LAYER }, { status: 503 }],
    expect: {
      // Two requests a try: for the size, and for the body.
      dockerd: { ending: 'pulled', took: 75, asked: 12 },
      'containerd 1.6': { ending: 'pulled', share: 0.4, asked: 1 },
      'containerd 2.1': { ending: 'pulled', share: 0.4, asked: 1 },
      'containerd 2.3 (parallel)': { ending: 'pulled', share: 0.4, asked: 1 },
      'containerd 2.4': { ending: 'pulled', share: 0.4, asked: 1 },
      'Docker 29': { ending: 'pulled', share: 0.4, asked: 1 },
      // The last host is asked a second time.
      'Docker 29 (prefix)': { ...FAILED, asked: 2 },
      podman: { ...FAILED, took: 14, asked: 4 },
      BuildKit: { ending: 'pulled', share: 0.4, asked: 1 },
      crane: { ...FAILED, took: 4, asked: 3 },
    },
  },
  'that is busy': {
    fault: [{ ref: LAYER }, { status: 429 }],
    expect: {
      dockerd: { ending: 'pulled', asked: 2 },
      'containerd 1.6': { ending: 'pulled', asked: 6 },
      containerd: { ending: 'pulled', asked: 5 },
      'Docker 29': { ending: 'pulled', asked: 5 },
      'Docker 29 (prefix)': { ...FAILED, asked: 5 },
      podman: { ...FAILED, took: 30, asked: 20 },
      BuildKit: { ending: 'pulled', asked: 5 },
      crane: { ...FAILED, took: 4, asked: 3 },
    },
  },
  'that closes in the middle of each body': {
    fault: [{ ref: LAYER }, { dropAfterBytes: 100_000, how: 'fin' }],
    expect: {
      dockerd: { ending: 'pulled', took: 75, asked: 6 },
      'containerd 2.3 (parallel)': { ending: 'pulled', share: 100 },
      'containerd 2.4': { ending: 'pulled', share: 100 },
      containerd: { ending: 'pulled', share: 100, asked: 7 },
      Docker: { ending: 'pulled', share: 100, asked: 7 },
      BuildKit: { ending: 'pulled', share: 100, asked: 7 },
      // Once more, then only after a megabyte; four times in all.
      podman: { ...FAILED, took: 18, asked: 8 },
      crane: { ...FAILED, asked: 1 },
    },
  },
  'that resets a connection': {
    fault: [
      { ref: LAYER, times: 1 },
      { dropAfterBytes: 100_000, how: 'rst' },
    ],
    expect: {
      dockerd: { ending: 'pulled', share: 100, took: 5, asked: 2 },
      containerd: { ...FAILED, asked: 1 },
      'containerd 2.3 (parallel)': FAILED,
      'containerd 2.4': FAILED,
      Docker: { ...FAILED, asked: 1 },
      podman: { ending: 'pulled', share: 100, took: 1, asked: 2 },
      BuildKit: { ending: 'pulled', share: 100, took: 1, asked: 2 },
      crane: { ...FAILED, asked: 1 },
    },
  },
  'that ends a body early as if that were all': {
    fault: [{ ref: LAYER }, { dropAfterBytes: 100_000, how: 'cleanChunkEnd' }],
    expect: {
      dockerd: { ending: 'pulled', asked: 1 },
      containerd: { ...FAILED, asked: 1 },
      Docker: { ...FAILED, asked: 1 },
      podman: { ...FAILED, asked: 1 },
      BuildKit: { ...FAILED, asked: 1 },
      crane: { ...FAILED, asked: 1 },
    },
  },
  'that sends something else': {
    fault: [{ ref: LAYER }, { corrupt: 'tail' }],
    expect: {
      dockerd: { ending: 'pulled', asked: 1 },
      containerd: FAILED,
      Docker: { ...FAILED, asked: 1 },
      podman: { ...FAILED, asked: 1 },
      BuildKit: { ...FAILED, asked: 1 },
      crane: { ...FAILED, asked: 1 },
    },
  },
}

for (const [name, { fault, expect }] of Object.entries(BAD_MIRRORS)) {
  test(`before a registry ${name}`, async (t) => {
    await Promise.all(
      CLIENTS.filter((client) => client.name !== 'podman (partial)').map(async (client) => {
        const [mirror, real] = [await registry(t), await registry(t)]
        mirror.fault(...fault)
        const outcome = await run(client, { mirror: mirror.url, real: real.url, ...NAMES, hangMs: 1_000 })
        const expected = expect[client.name] ?? expect[kindOf(client)]
        if (expected === undefined) throw new Error(`nothing is expected of ${client.name}`)
        const { ending, share, took, asked } = expected
        t.equal(outcome.ending, ending, `${client.name}: ${outcome.error?.message ?? ''}`)
        if (share !== undefined)
          t.equal(Math.round(outcome.share * 1000) / 10, share, `${client.name}: share`)
        if (took !== undefined)
          t.ok(outcome.tookMs >= took * 1000, `${client.name}: ${String(outcome.tookMs)}`)
        if (asked !== undefined) t.equal(mirror.log.count({ ref: LAYER }), asked, `${client.name}: requests`)
        if (ending === 'pulled') t.equal(outcome.shelf.contents.size, 5, `${client.name}: everything`)
      }),
    )
  })
}

test('podman breaks when a range of several parts is answered with one', async (t) => {
  const [mirror, real] = [await registry(t), await registry(t)]
  const partial = CLIENTS.find(({ name }) => name === 'podman (partial)')!
  const pull = (): Promise<Outcome> => run(partial, { mirror: mirror.url, real: real.url, ...NAMES })
  t.match(await pull(), { ending: 'pulled', share: 1 }, 'all of it is fine')

  const severalParts: Matcher = { when: ({ headers }) => headers.range?.includes(',') === true }
  const one = mirror.fault(severalParts, {
    status: 206,
    body: { text: 'x', type: 'application/octet-stream' },
  })
  t.match(await pull(), { ending: 'failed', error: /one part for 4/ })
  t.ok(one.hits > 0)
})

test('clients go elsewhere when nobody is there, and when it has no such image', async (t) => {
  const real = await registry(t)
  const empty = await simulate(t)
  for (const mirror of ['http://127.0.0.1:1', empty.url]) {
    for (const client of CLIENTS) {
      const outcome = await run(client, { mirror, real: real.url, ...NAMES })
      t.equal(outcome.ending, client.elsewhere === 'nothing' ? 'failed' : 'pulled', client.name)
      t.equal(outcome.share, 0)
    }
  }
})
