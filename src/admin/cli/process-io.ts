/** Input and output of the process, as commands see it. Only main.ts, which implements it, touches `process`. */
import type { Logger } from 'pino'
import type { Config } from '../../config/schema.ts'
import type { Operations } from '../operations.ts'

/** Options of a command that runs without a server. */
export interface AloneOptions {
  /** The operator allows a new index in place of a lost one. */
  readonly replaceLostIndex?: boolean
}

export interface Alone extends Operations, AsyncDisposable {
  /** Marks the index that replaced a lost one as complete: other processes may use it from now on. */
  finishIndex(): void
}

export interface ProcessIo {
  /**
   * Opens the operations without a server: the caller owns the folder until it disposes them.
   *
   * @throws StorageError LOCKED; OperatorError for any other reason why the folder cannot be used
   */
  readonly openAlone: (config: Config, log: Logger, options: AloneOptions) => Promise<Alone>
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdoutIsTty: boolean
  readonly stderrIsTty: boolean
  /** Prints without control characters, which a terminal would act upon: {@link plainText}. */
  print(line: string): void
  /** Prints to standard error, without control characters as well. */
  printError(line: string): void
  /** Writes to standard error unchanged. */
  writeStderr(text: string): void
  /** Writes to standard output unchanged; resolves when it takes more. */
  write(bytes: Uint8Array): Promise<void>
  /** Resolves with SIGTERM or SIGINT. After this call a second signal ends the process at once. */
  stopSignal(): Promise<string>
  /** Calls the handler for each SIGHUP, which then no longer ends the process. */
  onHangup(handler: () => void): void
  /** Calls the handler with an error that no code caught; the process ends after it. */
  onCrash(handler: (error: unknown) => void): void
}

/** Names and messages that a command prints may come from clients and upstreams. */
export { plainText } from '../../telemetry/control-characters.ts'
