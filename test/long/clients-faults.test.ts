/**
 * What the clients of the field make of the mirror on its upstream's bad days.
 *
 * `CLIENTS=all` (`npm run clients`): every client under every fault, and not only those that stand for the others.
 */
import { test } from 'tap'
import { simulate } from '../support/app.ts'
import { ASKERS, CLIENTS } from '../support/clients/all.ts'
import type { Client } from '../support/clients/client.ts'
import { tableOf, tryFault, type Trial } from '../support/clients/trial.ts'
import { FAULTS } from '../support/faults/all.ts'
import type { Fault } from '../support/faults/fault.ts'

const ALL = process.env['CLIENTS'] === 'all'
const AT_ONCE = 8
/** The whole pull, each request, or nothing but manifests go elsewhere: one of them under each fault. */
const SOME = ['dockerd 28', 'containerd 2.1', 'podman']
/** Each of another kind. */
const FOR_EVERYBODY = [
  'redirectBlobsToCdn: 303',
  'cdnError: html200',
  'rateLimit: json',
  'hang: headers',
  'hang: midBody',
  'slowloris: body',
  'dropAfterBytes: rst, every time',
  'dropAfterBytes: no progress',
  'corruptByteAt: once',
  'corruptByteAt: always',
  'flaky5xx: always',
  'refuse',
  'deletedUpstream: blob',
]

function clientsFor(fault: Fault, position: number): readonly Client[] {
  if (ALL || FOR_EVERYBODY.includes(fault.name)) return [...CLIENTS, ...ASKERS]
  // What the mirror hides entirely is the same for all; the fault matrix looks after that.
  if (fault.endings.cold === undefined) return []
  return CLIENTS.filter(({ name }) => name === SOME[position % SOME.length])
}

test('clients come to an honest end, whatever upstream does', async (t) => {
  const names = FAULTS.map(({ name }) => name)
  t.strictSame(
    FOR_EVERYBODY.filter((name) => !names.includes(name)),
    [],
    'all of these faults exist',
  )
  const ground = { real: await simulate(t), dir: t.testdir() }
  const trials: Trial[][] = FAULTS.map(() => [])
  const waiting = [...FAULTS.entries()].filter(([position, fault]) => clientsFor(fault, position).length > 0)
  const line = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [position, fault] = next
      trials[position] = await tryFault(t, ground, fault, clientsFor(fault, position))
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, line))
  for (const row of tableOf(trials.flat())) t.comment(row)
  for (const { fault, client, problems } of trials.flat()) {
    t.strictSame(problems, [], `${fault.name}: ${client.name}`)
  }
})
