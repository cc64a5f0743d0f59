/**
 * Protocol of the control socket: `POST /<operation>` with the arguments as JSON, answered by one JSON object per
 * line. The last line says how the operation ended; without it, the server died. `GET /` answers the process id.
 */
export type Line = { readonly event: unknown } | End

export type End =
  | { readonly end: 'done' }
  /** `refused`: the operator has to act. `failed`: the program has a bug. `stopped`: the server shuts down. */
  | { readonly end: 'refused' | 'failed' | 'stopped'; readonly message: string }

export interface Presence {
  readonly pid: number
}
