/**
 * Parser of `WWW-Authenticate` as registries really send it: several challenges in one header or in several, odd case
 * and spacing, commas inside quotes, Basic before Bearer.
 *
 * It never throws: what it cannot parse is skipped. Spec: RFC 9110 § 11.6.1; token spec of distribution.
 */

interface Challenge {
  /** Lower case. */
  readonly scheme: string
  /** Name in lower case -> value; the first parameter of a name counts. */
  readonly parameters: ReadonlyMap<string, string>
}

export interface BearerChallenge {
  readonly realm: string
  readonly service: string | undefined
  /** The scope as it was sent: `aws` and the empty string are scopes, too. */
  readonly scope: string | undefined
  readonly error: string | undefined
}

const WORD = /[!#$%&'*+\-.^_`|~0-9A-Za-z/]+/y
const SPACE = /[ \t]*/y
const QUOTED = /"((?:[^"\\]|\\.)*)"?/sy

export function parseChallenges(header: string | readonly string[] | undefined): Challenge[] {
  const values = header === undefined ? [] : typeof header === 'string' ? [header] : header
  return values.flatMap((value) => parseValue(value))
}

/** The first Bearer challenge that has a realm, whatever comes before it. */
export function bearerOf(challenges: readonly Challenge[]): BearerChallenge | undefined {
  for (const { scheme, parameters } of challenges) {
    const realm = parameters.get('realm')
    if (scheme !== 'bearer' || realm === undefined) continue
    return {
      realm,
      service: parameters.get('service'),
      scope: parameters.get('scope'),
      error: parameters.get('error'),
    }
  }
  return undefined
}

function parseValue(text: string): Challenge[] {
  const found: { scheme: string; parameters: Map<string, string> }[] = []
  let at = 0
  /** A scheme may be followed by one token68 instead of parameters: `Negotiate YWJj==`. */
  let afterScheme = false
  const take = (pattern: RegExp): RegExpExecArray | undefined => {
    pattern.lastIndex = at
    const match = pattern.exec(text)
    if (match !== null) at = pattern.lastIndex
    return match ?? undefined
  }
  while (at < text.length) {
    take(SPACE)
    const word = take(WORD)?.[0]
    if (word === undefined) {
      if (text[at] === ',') afterScheme = false
      at += 1
      continue
    }
    take(SPACE)
    if (text[at] === '=') {
      at += 1
      take(SPACE)
      const value = take(QUOTED)?.[1]?.replace(/\\(.)/gs, '$1') ?? take(WORD)?.[0]
      const parameters = found.at(-1)?.parameters
      const name = word.toLowerCase()
      if (value !== undefined && parameters?.has(name) === false) parameters.set(name, value)
      afterScheme = false
    } else if (afterScheme) {
      afterScheme = false
    } else {
      found.push({ scheme: word.toLowerCase(), parameters: new Map() })
      afterScheme = true
    }
  }
  return found
}
