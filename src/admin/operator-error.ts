/** What the person asked for is not done, for the reason that the message tells. Not a bug, and no stack is shown. */
export class Refused extends Error {
  override readonly name = 'Refused'
}
