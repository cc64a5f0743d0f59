/**
 * What goes over the control socket: `POST /<operation>` with the arguments as JSON, answered by one JSON object per
 * line. Only the last line says how it ended; without one it did not end well. `GET /` tells who is there.
 */
export type Line = { readonly event: unknown } | End

export type End =
  | { readonly end: 'done' }
  /** Refused: the person has to do something else. Failed: we have. Stopped: the server ends. */
  | { readonly end: 'refused' | 'failed' | 'stopped'; readonly message: string }

export interface Presence {
  readonly pid: number
}
