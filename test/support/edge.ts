/** The edge of a process that is not there: a command run in the test's own, and what it said. */
import { openAlone } from '../../src/app/parts/alone.ts'
import type { ProcessIo } from '../../src/admin/cli/process-io.ts'

export interface RecordedEdge extends ProcessIo {
  /** Of standard output, line by line. */
  readonly printed: string[]
  /** Of standard error. */
  readonly complaints: string[]
  /** Ctrl-C. */
  interrupt(): void
}

export function recordedEdge(options: { terminal?: boolean } = {}): RecordedEdge {
  const printed: string[] = []
  const complaints: string[] = []
  const stopped = Promise.withResolvers<string>()
  return {
    openAlone,
    env: {},
    stdoutIsTty: options.terminal ?? false,
    stderrIsTty: false,
    printed,
    complaints,
    print: (line) => void printed.push(line),
    printError: (line) => void complaints.push(line),
    writeStderr: (text) => void complaints.push(text),
    write: () => Promise.resolve(),
    stopSignal: () => stopped.promise,
    onHangup: () => undefined,
    onCrash: () => undefined,
    interrupt: () => stopped.resolve('SIGINT'),
  }
}
