/** Error for the operator: why a request is not done. It is no bug, so its stack is not shown. */
export class OperatorError extends Error {
  override readonly name: string = 'OperatorError'
}
