/**
 * Connections and bodies that fail.
 */
import type { Fault } from './fault.ts'

export const TRANSPORT_FAULTS: readonly Fault[] = [
  {
    name: 'refuse',
    section: '4.4',
    begin: (upstream) => upstream.stop(),
    endings: { cold: ['refused'], 'in flight': ['broken'] },
  },
  {
    name: 'hang: headers',
    section: '4.4',
    begin: (upstream) => {
      upstream.fault({}, { hang: 'headers' })
    },
    endings: { cold: ['refused'], 'in flight': ['served', 'broken'] },
  },
  {
    name: 'dropAfterBytes: rst',
    section: '4.4',
    begin: (upstream) => {
      upstream.fault({ kind: 'blob', times: 3 }, { dropAfterBytes: 100_000, how: 'rst' })
    },
    endings: {},
  },
]
