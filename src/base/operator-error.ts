/** Error for the operator: a request is not done, for the reason in the message. No bug, so that no stack is shown. */
export class OperatorError extends Error {
  override readonly name: string = 'OperatorError'
}
