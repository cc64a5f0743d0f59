/** Formatter of sizes, spans of time and counts for people. */

const SIZE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
const TIME_UNITS: readonly (readonly [name: string, ms: number])[] = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
  ['second', 1000],
]

/** `1.5 MiB`: three significant digits. */
export function sizeText(bytes: number): string {
  let amount = bytes
  let unit = 0
  while (amount >= 999.5 && unit < SIZE_UNITS.length - 1) {
    amount /= 1024
    unit += 1
  }
  const digits = unit === 0 || amount >= 99.95 ? 0 : amount >= 9.995 ? 1 : 2
  return `${amount.toFixed(digits)} ${SIZE_UNITS[unit] ?? ''}`
}

export function count(n: number, one: string, many = `${one}s`): string {
  return `${n} ${n === 1 ? one : many}`
}

/** `3 days`, `90 minutes`: in the largest unit that fits twice. */
export function spanText(ms: number): string {
  const span = Math.max(0, ms)
  for (const [name, length] of TIME_UNITS) {
    const many = Math.floor(span / length)
    if (many >= 2) return `${many} ${name}s`
  }
  return span >= 1000 ? '1 second' : 'less than a second'
}

/** The algorithm and twelve digits, as docker shows them. */
export function shortDigest(digest: string): string {
  return digest.slice(0, digest.indexOf(':') + 13)
}
