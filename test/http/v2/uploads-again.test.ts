/** Requests of an upload whose answer was lost, asked again, on the wire. */
import { request as httpRequest, type OutgoingHttpHeaders } from 'node:http'
import { connect } from 'node:net'
import { test } from 'tap'
import { digestOf } from '../../../src/oci/digest.ts'
import { nodeFiles, type Files } from '../../../src/storage/files/files.ts'
import { eventually } from '../../support/app.ts'
import { partialsIn } from '../../support/at-rest.ts'
import { randomBytesOf, ZERO_BLOB } from '../../support/images.ts'
import type { Reply } from '../../support/http-fakes.ts'
import { chunk, start, UPLOADS, type Client } from '../../support/http-uploads.ts'

const MiB = 1024 * 1024

/** Sends the first half of a body, and breaks off once it is here. */
async function sendHalf(
  { mirror, standing }: Client,
  method: string,
  path: string,
  body: Buffer,
  here: string,
  more: OutgoingHttpHeaders = {},
): Promise<void> {
  const headers = { 'Content-Length': String(body.length), ...more }
  const outgoing = httpRequest(`${mirror.url}${path}`, { method, headers })
  outgoing.on('error', () => undefined)
  outgoing.write(body.subarray(0, body.length / 2))
  const [location = ''] = path.split('?')
  await eventually('half of it is here', async () => (await standing(location)) === here)
  outgoing.destroy()
}

for (const follows of [true, false]) {
  const who = follows ? 'a client that follows each location' : 'a client that always uses its first location'

  test(`${who} sends a PATCH again whose answer it never got`, async (t) => {
    const client = await start(t)
    const { ask, begin, pulled } = client
    const content = randomBytesOf(2 * MiB, who)
    const digest = digestOf(content)
    for (const [way, sends] of [
      ['again', 2],
      ['again and again', 3],
      ['after half of it', 1],
    ] as const) {
      let location = await begin()
      for (const [from, to] of [
        [0, MiB],
        [MiB, 2 * MiB],
      ] as const) {
        const body = content.subarray(from, to)
        if (way === 'after half of it')
          await sendHalf(client, 'PATCH', location, body, `0-${(from + to) / 2 - 1}`)
        let answer: Reply | undefined
        for (let nth = 0; nth < sends; nth++) {
          answer = await ask('PATCH', location, { body })
          t.match(answer, { status: 202, headers: { range: `0-${to - 1}` } }, way)
        }
        if (follows) location = answer?.headers.location ?? ''
      }
      t.equal((await ask('PUT', `${location}?digest=${digest}`)).status, 201, way)
      t.ok((await pulled(digest))?.equals(content))
    }
  })

  test(`${who} sends the closing PUT from its beginning, after half of it came`, async (t) => {
    const client = await start(t)
    const { ask, begin, pulled } = client
    const content = randomBytesOf(2 * MiB, `closing ${who}`)
    for (const patched of [0, MiB]) {
      // So that nothing is here already.
      const blob = content.subarray(0, 2 * MiB - patched / 2)
      const digest = digestOf(blob)
      let location = await begin()
      if (patched > 0) {
        const { headers } = await ask('PATCH', location, { body: blob.subarray(0, patched) })
        if (follows) location = headers.location ?? ''
      }
      const rest = blob.subarray(patched)
      const half = patched + rest.length / 2
      await sendHalf(client, 'PUT', `${location}?digest=${digest}`, rest, `0-${half - 1}`)
      t.equal((await ask('PUT', `${location}?digest=${digest}`, { body: rest })).status, 201)
      t.ok((await pulled(digest))?.equals(blob))
    }
  })
}

test('a chunk with its range is sent again from its beginning, after half of it came', async (t) => {
  const client = await start(t)
  const { ask, begin, pulled, standing } = client
  const content = randomBytesOf(3 * MiB, 'cut chunk')
  const digest = digestOf(content)
  let location = await begin()
  for (const first of [0, MiB]) {
    const sent = chunk(content, first, first + MiB - 1)
    const half = first + MiB / 2
    for (let nth = 0; nth < 2; nth++)
      await sendHalf(client, 'PATCH', location, sent.body as Buffer, `0-${half - 1}`, sent.headers)
    const other = await ask('PATCH', location, chunk(content, first, first + MiB))
    t.match(other, { status: 416, headers: { range: `0-${half - 1}` } }, 'not any chunk that begins there')
    const answer = await ask('PATCH', location, sent)
    t.match(answer, { status: 202, headers: { range: `0-${first + MiB - 1}` } })
    location = answer.headers.location ?? ''
    t.equal((await ask('PATCH', location, sent)).status, 416, 'what came whole is not taken twice')
  }
  const last = chunk(content, 2 * MiB, 3 * MiB - 1)
  const put = `${location}?digest=${digest}`
  await sendHalf(client, 'PUT', put, last.body as Buffer, `0-${2.5 * MiB - 1}`, last.headers)
  t.equal(await standing(location), `0-${2.5 * MiB - 1}`)
  t.equal((await ask('PUT', put, last)).status, 201)
  t.ok((await pulled(digest))?.equals(content))
})

test('a client that always uses its first location repeats a PATCH after a restart', async (t) => {
  const root = t.testdir()
  const content = randomBytesOf(4 * MiB, 'restart')
  const digest = digestOf(content)
  for (const came of [MiB, MiB / 2]) {
    for (const nth of [1, 2, 3]) {
      const from = (nth - 1) * MiB
      const chunkOf = (at: number): Buffer => content.subarray(at, at + MiB)
      const first = await start(t, { root })
      const location = await first.begin()
      for (let at = 0; at < from; at += MiB)
        t.equal((await first.ask('PATCH', location, { body: chunkOf(at) })).status, 202)
      if (came === MiB) t.equal((await first.ask('PATCH', location, { body: chunkOf(from) })).status, 202)
      else await sendHalf(first, 'PATCH', location, chunkOf(from), `0-${from + came - 1}`)
      await first.mirror.close()
      const second = await start(t, { root })
      for (let at = from; at < content.length; at += MiB) {
        const answer = await second.ask('PATCH', location, { body: chunkOf(at) })
        t.equal(answer.status, 202)
        if (at === from) t.equal(answer.headers.range, `0-${from + MiB - 1}`, `${came} of request ${nth}`)
      }
      t.equal((await second.ask('PUT', `${location}?digest=${digest}`)).status, 201)
      t.ok((await second.pulled(digest))?.equals(content))
      await second.mirror.close()
    }
  }
})

test('a client goes on where an answer told it to, wherever it learned that', async (t) => {
  const { ask, begin, pulled } = await start(t)
  const content = randomBytesOf(1000)
  const digest = digestOf(content)
  const location = await begin()
  const patched = await ask('PATCH', location, { body: content.subarray(0, 400) })
  const status = await ask('GET', location)
  t.match(status, { status: 204, headers: { range: '0-399', location: patched.headers.location ?? '' } })
  const refused = await ask('PATCH', location, chunk(content, 0, 399))
  t.match(refused, { status: 416, headers: { range: '0-399', location: patched.headers.location ?? '' } })
  const next = await ask('PATCH', String(refused.headers.location), { body: content.subarray(400, 600) })
  t.match(next, { status: 202, headers: { range: '0-599' } })
  const last = { body: content.subarray(600) }
  t.equal((await ask('PUT', `${next.headers.location}?digest=${digest}`, last)).status, 201)
  t.ok((await pulled(digest))?.equals(content))
})

test('the closing PUT is answered again, in whatever way the blob came', async (t) => {
  const root = t.testdir()
  const { ask, begin, mirror } = await start(t, { root })
  const finished: [string, string, Buffer | undefined][] = []
  for (const way of ['with the body', 'with a last chunk', 'without a body', 'of no bytes'] as const) {
    const content = way === 'of no bytes' ? Buffer.alloc(0) : randomBytesOf(MiB + 5, way)
    const digest = digestOf(content)
    let location = await begin()
    const patched = way === 'with a last chunk' ? MiB : way === 'without a body' ? content.length : 0
    if (patched > 0) {
      const { headers } = await ask('PATCH', location, { body: content.subarray(0, patched) })
      location = headers.location ?? ''
    }
    const body = patched < content.length ? content.subarray(patched) : undefined
    finished.push([location, digest, body])
  }
  const put = async (): Promise<void> => {
    for (const [location, digest, body] of finished) {
      const answer = await ask('PUT', `${location}?digest=${digest}`, body && { body })
      t.equal(answer.status, 201)
      t.match(answer.headers, {
        location: `/v2/team/app/blobs/${digest}`,
        'docker-content-digest': digest,
        'content-length': '0',
      })
    }
  }
  await put()
  await put()
  for (const [location, digest] of finished) {
    const other = digestOf(Buffer.from('other'))
    t.match(await ask('PUT', `${location}?digest=${other}`), { status: 404, code: 'BLOB_UPLOAD_UNKNOWN' })
    const elsewhere = location.replace('/app/', '/other/')
    t.equal((await ask('PUT', `${elsewhere}?digest=${digest}`)).status, 404)
    for (const method of ['GET', 'PATCH', 'DELETE'])
      t.equal((await ask(method, location)).status, 404, method)
  }
  await mirror.close()
  const after = await start(t, { root })
  for (const [location, digest, body] of finished) {
    const answer = await after.ask('PUT', `${location}?digest=${digest}`, body && { body })
    t.equal(answer.status, 201, 'after a restart')
    t.equal((await after.ask('GET', location)).status, 404)
  }
  const [location, digest] = finished[0]!
  t.equal((await after.ask('DELETE', `/v2/team/app/blobs/${digest}`)).status, 202)
  t.equal((await after.ask('PUT', `${location}?digest=${digest}`)).status, 404, 'it is not here any more')
})

test('of two closing PUTs at once both are answered 201', async (t) => {
  const { ask, begin, pulled } = await start(t)
  for (const withBody of [true, false]) {
    const content = randomBytesOf(3 * MiB, String(withBody))
    const digest = digestOf(content)
    const location = await begin()
    if (!withBody) await ask('PATCH', location, { body: content })
    const body = withBody ? { body: content } : {}
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => ask('PUT', `${location}?digest=${digest}`, body)),
    )
    t.same(
      answers.map(({ status }) => status),
      [201, 201, 201, 201],
    )
    t.ok((await pulled(digest))?.equals(content))
  }
})

test('a closing PUT that comes while the first is being committed is answered with it', async (t) => {
  const committing = Promise.withResolvers<undefined>()
  const gate = Promise.withResolvers<undefined>()
  const files: Files = {
    ...nodeFiles,
    rename: async (from, to) => {
      if (to.includes('/blobs/')) {
        committing.resolve(undefined)
        await gate.promise
      }
      await nodeFiles.rename(from, to)
    },
  }
  const { ask, begin, port } = await start(t, { files })
  const content = randomBytesOf(MiB)
  const digest = digestOf(content)
  const location = await begin()
  const outgoing = connect({ port, host: '127.0.0.1' })
  outgoing.write(
    `PUT ${location}?digest=${digest} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${MiB}\r\n\r\n`,
  )
  outgoing.write(content)
  await committing.promise
  outgoing.destroy()
  const again = ask('PUT', `${location}?digest=${digest}`, { body: content })
  const waiting = await Promise.race([again, ask('GET', `${UPLOADS}0.aaaaaaaaaaaaaaaaaaaaaa`)])
  t.equal(waiting.code, 'BLOB_UPLOAD_UNKNOWN', 'the second waits')
  gate.resolve(undefined)
  t.equal((await again).status, 201)
})

test('mounts that come to nothing leave no file, and each of their sessions can be used', async (t) => {
  const root = t.testdir()
  const { ask, mirror } = await start(t, { root })
  const locations: string[] = []
  for (let nth = 0; nth < 500; nth++) {
    const answer = await ask('POST', `${UPLOADS}?mount=${ZERO_BLOB.digest}&from=team/nothing`)
    t.equal(answer.status, 202)
    locations.push(answer.headers.location ?? '')
  }
  t.same(partialsIn(root), [])
  await mirror.close()
  t.same(partialsIn(root), [])
  const after = await start(t, { root })
  t.equal(await after.standing(locations[0]!), '0-0')
  t.equal((await after.ask('DELETE', locations[0]!)).status, 204)
  t.equal(await after.standing(locations[0]!), '404')
  t.equal((await after.ask('PATCH', locations[499]!, { body: 'x' })).status, 202)
  t.equal(partialsIn(root).length, 2)
})
