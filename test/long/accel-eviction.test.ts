/** What nginx was told to open is there, whatever is evicted at that moment. */
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'tap'
import { evict } from '../../src/admin/cli/evict.ts'
import { isWhole, pull } from '../support/app.ts'
import { recordedEdge } from '../support/edge.ts'
import { shortDir } from '../support/programs.ts'
import { KB, openWarehouse } from '../support/warehouse.ts'

test('whatever is evicted meanwhile, what was named is there', async (t) => {
  const root = path.join(shortDir(t), 'data')
  const { mirror, offer, pullImage, has } = await openWarehouse(t, {
    root,
    config: { server: { port: 0, accelRedirect: '/internal-blobs/' } },
  })
  const file = path.join(root, '../config.yaml')
  writeFileSync(file, JSON.stringify({ storage: { root } }))
  const outcomes = new Set<string | undefined>()
  for (let round = 0; round < 40; round++) {
    const name = `library/round${round}`
    const app = offer(name, [20 * KB])
    const layer = app.layers[0]!
    await pullImage(name, app)
    const evicted = evict({ config: file, to: '0' }, recordedEdge())
    // Now sooner, now later in the course of it.
    for (let turns = 0; turns < round * 2; turns++) await turn()
    const answer = await pull(`${mirror.url}/v2/${name}/blobs/${layer.digest}`, {
      'x-sendfile-type': 'X-Accel-Redirect',
    })
    t.equal(await evicted, 0)
    outcomes.add(answer.cache)
    if ('x-accel-redirect' in answer.headers) t.ok(has(layer), 'it can be opened')
    else t.ok(isWhole(answer, layer))
  }
  t.ok(outcomes.has('hit'), [...outcomes].join())
})
