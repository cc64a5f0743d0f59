/**
 * Globs over names: `*` matches within one component, `**` any number of components.
 * Between two others `**` may stand for none; at the end it stands for at least one: `team/**` is not `team`.
 *
 * Linear in the name's length times the glob's: both come from people, and an expression made of them could
 * be made to run for ever.
 */

export function matchesAny(globs: readonly string[], name: string): boolean {
  return globs.some((glob) => matches(glob.split('/'), name.split('/')))
}

function matches(glob: readonly string[], name: readonly string[]): boolean {
  const parts = glob.at(-1) === '**' ? [...glob, '*'] : glob
  return walk(parts, name, (part) => part === '**', matchesComponent)
}

function matchesComponent(glob: string, component: string): boolean {
  // `**` that is only part of a component means no more than `*`.
  return walk(
    Array.from(glob.replaceAll(/\*+/g, '*')),
    Array.from(component),
    (sign) => sign === '*',
    Object.is,
  )
}

/** Greedy matching that goes back to the last wildcard only: enough, as a later one could do all an earlier did. */
function walk(
  pattern: readonly string[],
  subject: readonly string[],
  isWildcard: (item: string) => boolean,
  fits: (item: string, other: string) => boolean,
): boolean {
  let p = 0
  let s = 0
  let wildcard = -1
  let taken = 0
  while (s < subject.length) {
    const item = pattern[p]
    if (item !== undefined && isWildcard(item)) {
      wildcard = p++
      taken = s
    } else if (item !== undefined && fits(item, subject[s] ?? '')) {
      p++
      s++
    } else if (wildcard >= 0) {
      p = wildcard + 1
      s = ++taken
    } else return false
  }
  return pattern.slice(p).every(isWildcard)
}
