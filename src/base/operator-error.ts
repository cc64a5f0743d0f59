/** Error for the person who operates the program: what was asked for is not done, for the reason that the message tells. */

/** Not a bug, and no stack is shown. */
export class OperatorError extends Error {
  override readonly name: string = 'OperatorError'
}
