/**
 * Units of the configuration: parses durations, sizes and shares such as `5m`, `50GiB` and `80%`.
 *
 * `undefined` means that the text is none. A bare `0` needs no unit; another bare number is a size in bytes and never
 * a duration, because a reader could not tell whether 30 means seconds or milliseconds.
 */

const MS_PER_UNIT = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const
const BYTES_PER_UNIT = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 } as const

const DURATION = /^(\d+(?:\.\d+)?) ?(ms|s|m|h|d)$/
const SIZE = /^(\d+(?:\.\d+)?) ?(B|KiB|MiB|GiB|TiB)?$/
const PERCENT = /^(\d+(?:\.\d+)?) ?%$/

/** @returns milliseconds */
export function parseDuration(value: unknown): number | undefined {
  if (value === 0 || value === '0') return 0
  const match = typeof value === 'string' ? DURATION.exec(value.trim()) : null
  if (!match) return undefined
  return safe(Number(match[1]) * MS_PER_UNIT[match[2] as keyof typeof MS_PER_UNIT])
}

/** @returns bytes */
export function parseSize(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 0 ? value : undefined
  const match = typeof value === 'string' ? SIZE.exec(value.trim()) : null
  if (!match) return undefined
  return safe(Number(match[1]) * BYTES_PER_UNIT[(match[2] ?? 'B') as keyof typeof BYTES_PER_UNIT])
}

/** @returns above 0, at most 100 */
export function parsePercent(value: unknown): number | undefined {
  const match = typeof value === 'string' ? PERCENT.exec(value.trim()) : null
  const percent = Number(match?.[1] ?? Number.NaN)
  return percent > 0 && percent <= 100 ? percent : undefined
}

function safe(value: number): number | undefined {
  const rounded = Math.round(value)
  return Number.isSafeInteger(rounded) ? rounded : undefined
}
