/**
 * Globs over names: `*` matches within one component, `**` any number of components.
 * A `**` in front of a component may match none; at the end it matches at least one: `team/**` is not `team`.
 *
 * Runs in O(name × glob): a regular expression built from a user's glob could backtrack for ever.
 */

export function matchesAny(globs: readonly string[], name: string): boolean {
  return globs.some((glob) => matches(glob.split('/'), name.split('/')))
}

function matches(glob: readonly string[], name: readonly string[]): boolean {
  const parts = glob.at(-1) === '**' ? [...glob, '*'] : glob
  return walk(parts, name, (part) => part === '**', matchesComponent)
}

function matchesComponent(glob: string, component: string): boolean {
  // A `**` inside a component means `*`.
  return walk(
    Array.from(glob.replaceAll(/\*+/g, '*')),
    Array.from(component),
    (sign) => sign === '*',
    Object.is,
  )
}

/** Greedy matching; backtracking to the last wildcard suffices, because it can match all that an earlier one could. */
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
