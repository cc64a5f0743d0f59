/** Errors as registries, and what stands before them, word them: which prove anything, and what clients hear. */
import { test } from 'tap'
import { eventually, pull } from '../support/app.ts'
import { ODD_BODIES } from '../support/faults/bodies.ts'
import { startTagged } from '../support/tagged.ts'
import { codeOf } from '../support/two-upstreams.ts'
import { connect, failureOf, LATEST, NAME } from '../support/upstream-client.ts'

const none = new URLSearchParams()

for (const { name, status, text, type, absent } of ODD_BODIES) {
  test(`nonJsonErrors: ${name}: ${absent ? 'there is none' : 'that is no answer'}`, async (t) => {
    const { client, upstream, image, signal } = await connect(t)
    upstream.fault({}, { status, body: { text, type } })
    const { digest } = image.layers[0]!
    const asked = [
      () => client.manifest(NAME, LATEST, signal),
      () => client.manifest(NAME, image.manifest.digest, signal),
      () => client.blob(NAME, digest, { from: 0, signal }),
      () => client.blob(NAME, digest, { from: 100, signal }),
      () => client.headBlob(NAME, digest, signal),
      () => client.tags(NAME, none, signal),
    ]
    for (const ask of asked) {
      if (absent) t.equal(await ask(), undefined, String(ask))
      else t.equal((await failureOf(ask())).status, name === '405 DENIED' ? 403 : status, String(ask))
    }
  })
}

for (const { name, status, text, type, absent } of ODD_BODIES) {
  test(`nonJsonErrors: ${name}: clients are told in the words of the specification`, async (t) => {
    const { upstream, mirror, first, get, warm, age } = await startTagged(t)
    await warm()
    upstream.fault({ kind: ['manifest', 'blob', 'tags'] }, { status, body: { text, type } })
    const denied = name === '405 DENIED'
    const wanted = absent ? 404 : denied ? 403 : 503
    const unknown = 'library/other'
    const paths = [
      `manifests/1`,
      `manifests/${first.manifest.digest}`,
      `blobs/${first.layers[0]!.digest}`,
      'tags/list',
    ]
    for (const path of paths) {
      const answer = await pull(`${mirror.url}/v2/${unknown}/${path}`)
      t.equal(answer.status, wanted, path)
      t.equal(answer.headers['content-type'], 'application/json')
      t.match(codeOf(answer), absent ? /_UNKNOWN$/ : denied ? 'DENIED' : 'UNAVAILABLE')
      t.equal(answer.headers['retry-after'] === undefined, absent || denied)
      t.notOk(answer.body.includes('Bad Gateway') || answer.body.includes('not today'), 'in our words')
    }
    age()
    const cached = await get()
    t.equal(cached.status, absent ? 404 : 200)
    if (!absent) t.match(cached, { cache: 'stale', headers: { warning: /^299 - "/ } })
    t.equal((await get(first.manifest.digest)).cache, 'hit')
    upstream.rules.clear()
    await eventually('it answers again', async () => {
      age()
      return (await get()).cache === 'hit'
    })
  })
}
