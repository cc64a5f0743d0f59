/** Spans of time as a person reads them. */

const UNITS: readonly (readonly [name: string, ms: number])[] = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
  ['second', 1000],
]

/** `3 days`, `90 minutes`: of the largest unit of which there are two. */
export function spanText(ms: number): string {
  const span = Math.max(0, ms)
  for (const [name, length] of UNITS) {
    const many = Math.floor(span / length)
    if (many >= 2) return `${many} ${name}s`
  }
  return span >= 1000 ? '1 second' : 'less than a second'
}
