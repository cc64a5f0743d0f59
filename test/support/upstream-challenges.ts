/**
 * The forms in which registries ask for a token.
 */

export type ChallengeFormat =
  | 'multi'
  | 'lowercase'
  | 'extraSpaces'
  | 'commaInQuoted'
  | 'noScope'
  | 'dummyScope'
  | 'literalScope'
  | 'basicFirst'
  | 'negotiateFirst'

/** The only scope that tokens are asked for and given in (ECR public). */
export const LITERAL_SCOPE = 'aws'

/** From the plain challenge the `WWW-Authenticate` value, or values. */
export const CHALLENGE_FORMATS: Readonly<Record<ChallengeFormat, (plain: string) => string | string[]>> = {
  multi: (plain) => ['Basic realm="simulator"', plain],
  lowercase: (plain) => plain.replace('Bearer', 'bearer'),
  extraSpaces: (plain) => plain.replaceAll(',', '  ,\t').replaceAll('="', ' = "'),
  commaInQuoted: (plain) => `Basic realm="one, Bearer realm=two", ${plain}`,
  noScope: (plain) => plain.replace(/,scope="[^"]*"/, ''),
  // What ghcr.io says to a ping, here said to everything.
  dummyScope: (plain) => plain.replace(/scope="[^"]*"/, 'scope="repository:user/image:pull"'),
  literalScope: (plain) => plain.replace(/scope="[^"]*"/, `scope="${LITERAL_SCOPE}"`),
  basicFirst: (plain) => `Basic realm="simulator", ${plain}`,
  negotiateFirst: (plain) => `Negotiate YWJj==, ${plain}`,
}
