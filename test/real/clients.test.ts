/**
 * What the real clients of the field get, with nothing cached, with everything, and when the registry is gone.
 */
import { test } from 'tap'
import type { RealClient } from './clients/client.ts'
import { crane } from './clients/crane.ts'
import { skopeo } from './clients/skopeo.ts'
import { STATES, tableOf, tryClient } from './clients/table.ts'

const CLIENTS: readonly RealClient[] = [skopeo, crane]

for (const client of CLIENTS) {
  test(
    `${client.name} gets what is here, whatever becomes of the registry`,
    { skip: client.missing },
    async (t) => {
      const rows = await tryClient(t, client)
      for (const line of tableOf(rows)) t.comment(line)
      for (const { verb, referrersApi, cells } of rows) {
        const api = referrersApi ? '' : ', without an API of referrers'
        for (const state of STATES)
          t.equal(cells.get(state)?.failure, undefined, `${verb.what}, ${state}${api}`)
      }
    },
  )
}
