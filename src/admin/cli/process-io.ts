/**
 * What a command may know of the process it runs in. main.ts fills it in; nothing else touches `process`.
 */
import type { Logger } from 'pino'
import type { Config } from '../../config/schema.ts'
import type { Operations } from '../operations.ts'

/** Where no server runs. */
export interface AloneOptions {
  /** Another index may take the place of one that was lost: that is what the person has asked for. */
  readonly replaceLostIndex?: boolean
}

export interface Alone extends Operations, AsyncDisposable {
  /** Where it took the place of one that was lost: it may be used from now on. */
  finishIndex(): void
}

export interface ProcessIo {
  /**
   * The operations without a server: the folder is the caller's until it disposes them.
   *
   * @throws StorageError LOCKED; OperatorError for what else keeps it from being used
   */
  readonly openAlone: (config: Config, log: Logger, options: AloneOptions) => Promise<Alone>
  readonly env: Readonly<Record<string, string | undefined>>
  /** Standard output is read by a person. */
  readonly stdoutIsTty: boolean
  /** Standard error is. */
  readonly stderrIsTty: boolean
  /** Without characters that a terminal acts upon: {@link plainText}. */
  print(line: string): void
  /** The same. */
  printError(line: string): void
  /** To standard error, as it is. */
  writeStderr(text: string): void
  /** To standard output, as it is; resolves when there is room for more. */
  write(bytes: Uint8Array): Promise<void>
  /** SIGTERM or SIGINT. Once it was asked for, a second one ends the process at once. */
  stopSignal(): Promise<string>
  /** SIGHUP. Once it was asked for, that does not end the process any more. */
  onHangup(handler: () => void): void
  /** Called with what nobody caught; the process ends after it. */
  onCrash(handler: (error: unknown) => void): void
}

/** What is printed may have been said by others. */
export { plainText } from '../../telemetry/control-characters.ts'
