/**
 * Protocol of the control socket: `POST /<operation>` with the arguments as JSON, answered by one JSON object per line.
 * The last line says how the operation ended; where it is missing, the server went away. `GET /` answers the process id.
 */
export type Line = { readonly event: unknown } | End

export type End =
  | { readonly end: 'done' }
  /** Refused: the operator has to do something else. Failed: the program has a fault. Stopped: the server ends. */
  | { readonly end: 'refused' | 'failed' | 'stopped'; readonly message: string }

export interface Presence {
  readonly pid: number
}
