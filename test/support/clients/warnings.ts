/**
 * The warnings that containerd 2.4 shows its user: those of answers to GET, and of the HEAD that named the image.
 *
 * It reads but the one form that the distribution specification has, and passes over all others in silence.
 */
import type { Outcome } from './client.ts'

const QUOTED = /^299 - "((?:[^"\\]|\\.)*)"$/

export function warningsShown({ exchanges }: Outcome): string[] {
  const shown = exchanges.flatMap(({ headers }) => {
    // Node joins what came in several lines, and such a text may hold a comma itself.
    const all = (headers.warning ?? '').split(/, (?=299 )/)
    return all.flatMap((line) => QUOTED.exec(line.trim())?.[1]?.replaceAll(/\\(.)/g, '$1') ?? [])
  })
  return [...new Set(shown)]
}
