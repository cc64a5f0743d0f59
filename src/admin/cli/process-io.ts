/**
 * Input and output of the process, as commands see it. Only main.ts, which implements it, touches `process`.
 */
import type { Logger } from 'pino'
import type { Config } from '../../config/schema.ts'
import type { Operations } from '../operations.ts'

/** Options of a command that runs where no server does. */
export interface AloneOptions {
  /** The operator has said that another index may take the place of one that was lost. */
  readonly replaceLostIndex?: boolean
}

export interface Alone extends Operations, AsyncDisposable {
  /** The index that took the place of a lost one is complete: other processes may use it from now on. */
  finishIndex(): void
}

export interface ProcessIo {
  /**
   * The operations without a server: the folder is the caller's until it disposes them.
   *
   * @throws StorageError LOCKED; OperatorError for whatever else keeps the folder from being used
   */
  readonly openAlone: (config: Config, log: Logger, options: AloneOptions) => Promise<Alone>
  readonly env: Readonly<Record<string, string | undefined>>
  /** Standard output is a terminal. */
  readonly stdoutIsTty: boolean
  /** Standard error is a terminal. */
  readonly stderrIsTty: boolean
  /** Without characters that a terminal acts upon: {@link plainText}. */
  print(line: string): void
  /** To standard error, without control characters as well. */
  printError(line: string): void
  /** Writes to standard error without a change. */
  writeStderr(text: string): void
  /** Writes to standard output without a change; resolves when it takes more. */
  write(bytes: Uint8Array): Promise<void>
  /** Resolves with SIGTERM or SIGINT. After this call a second signal ends the process at once. */
  stopSignal(): Promise<string>
  /** Calls the handler for each SIGHUP, which then no longer ends the process. */
  onHangup(handler: () => void): void
  /** Calls the handler with an error that no code caught; the process ends after it. */
  onCrash(handler: (error: unknown) => void): void
}

/** Names and messages that are printed may come from clients and upstreams. */
export { plainText } from '../../telemetry/control-characters.ts'
