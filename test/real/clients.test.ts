/**
 * What the real clients of the field get, with nothing cached, with everything, and when the registry is gone.
 */
import { test } from 'tap'
import type { RealClient } from './clients/client.ts'
import { containerd } from './clients/containerd.ts'
import { crane } from './clients/crane.ts'
import { helm } from './clients/helm.ts'
import { oras } from './clients/oras.ts'
import { podman } from './clients/podman.ts'
import { regctl } from './clients/regctl.ts'
import { skopeo } from './clients/skopeo.ts'
import { STATES, tableOf, titleOf, tryClient } from './clients/table.ts'

const CLIENTS: readonly RealClient[] = [skopeo, podman, containerd, crane, regctl, oras, helm]

for (const client of CLIENTS.filter(({ name }) => (process.env['ONLY'] ?? name).includes(name))) {
  test(
    `${client.name} gets what is here, whatever becomes of the registry`,
    { skip: client.missing },
    async (t) => {
      const rows = await tryClient(t, client)
      for (const line of tableOf(rows)) t.comment(line)
      for (const row of rows) {
        for (const state of STATES) {
          const { failure } = row.cells.get(state) ?? { failure: 'it was not tried' }
          t.equal(
            failure,
            undefined,
            `${titleOf(row)}, ${state}${failure === undefined ? '' : `: ${failure}`}`,
          )
        }
      }
    },
  )
}
