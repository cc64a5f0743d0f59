/**
 * How much a bench does: `--smoke` (seconds, to see that it runs), nothing (minutes for all of them), or `--full`.
 *
 * Each bench says in one table what these mean for it, and each entry of that table is an option of its own.
 */
import { parseArgs } from 'node:util'

export type Size = 'smoke' | 'small' | 'full'

/** Of every bench. */
const COMMON = {
  smoke: { type: 'boolean' },
  full: { type: 'boolean' },
  /** A file that keeps what is reported; without it, it is printed only. */
  results: { type: 'string' },
  /** Peers that are left alone: `zot,nginx`. */
  without: { type: 'string' },
} as const

const { values: common } = parseArgs({ options: COMMON, strict: false })

export const size: Size = common.smoke === true ? 'smoke' : common.full === true ? 'full' : 'small'
export const resultsFile = typeof common.results === 'string' ? common.results : undefined
export const without: readonly string[] =
  typeof common.without === 'string' ? common.without.split(',').filter((name) => name !== '') : []

/** What {@link sized} said: kept beside what was measured with it. */
export let sizes: Readonly<Record<string, number | string>> = {}

/**
 * What the command line says, else what the size means.
 *
 *     const { rounds, layer } = sized({ smoke: { rounds: 1, layer: 4 }, small: { rounds: 3, layer: 64 }, full: … })
 *
 * @throws for an option that is not in the table, and for one that is no number where the table has one
 */
export function sized<Values extends Record<string, number | string>>(table: Record<Size, Values>): Values {
  const defaults = table[size]
  const { values } = parseArgs({
    options: {
      ...COMMON,
      ...Object.fromEntries(Object.keys(defaults).map((name) => [name, { type: 'string' } as const])),
    },
  })
  const given = Object.entries(defaults).map(([name, value]) => {
    const said: unknown = (values as Record<string, unknown>)[name]
    if (typeof said !== 'string') return [name, value]
    if (typeof value === 'string') return [name, said]
    if (!(Number(said) >= 0)) throw new Error(`--${name} ${said}: not a number`)
    return [name, Number(said)]
  })
  const all = Object.fromEntries(given) as Values
  sizes = all
  return all
}
