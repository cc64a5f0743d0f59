/**
 * Log: pino, one JSON object per line, readable lines on a terminal.
 *
 * The message is a constant phrase, the data is in fields. Secrets are redacted here, wherever in the fields they
 * are, so that code that logs a whole object by mistake leaks nothing; control characters are escaped.
 */
import { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { destination, pino, stdSerializers, type Logger, type LoggerOptions } from 'pino'
import pretty from 'pino-pretty'
import { plainJson, shownJson } from './control-characters.ts'

interface LogOptions {
  readonly level: string
  /** Readable lines, for a terminal. */
  readonly pretty?: boolean
  /** Default: standard output. */
  readonly write?: (line: string) => void
}

export function createLog({ level, pretty: readable = false, write }: LogOptions): Logger {
  // The readable output takes texts out of the JSON again, and undoes its escapes.
  const shown = readable ? plainJson : shownJson
  const options: LoggerOptions = {
    level,
    // The collector of the log knows the machine and the process.
    base: null,
    serializers: { err: (error: Error) => concealed(stdSerializers.err(error)) },
    formatters: { level: (label) => ({ level: label }), log: concealFields },
    // Texts are redacted once, in the finished line, with messages and stacks.
    hooks: {
      streamWrite: (line) => shown(SUSPICIOUS.test(line) ? line.replaceAll(CREDENTIALS, '[hidden]') : line),
    },
    timestamp: timestamps(),
  }
  const output =
    write &&
    new Writable({
      write(line, _, done) {
        write(String(line))
        done()
      },
    })
  if (!readable) return pino(options, output ?? new StandardOutput())
  // Synchronous and in this thread, so that the last lines before an exit are not lost.
  const terminal = { colorize: output === undefined, sync: true, ...(output && { destination: output }) }
  return pino(options, pretty(terminal))
}

/** How long a line may wait for others. */
const GATHER_MS = 20
const GATHER_LENGTH = 64 * 1024

/**
 * Batches lines: the first one after a pause is written at once, those that follow it closely are written together,
 * for a write for each would cost more than all else about it. The end of the process loses none.
 */
class StandardOutput {
  // Asynchronous, since a slow reader of the log must not stop the server. With `minLength`, `flush` waits for writes.
  readonly #output = destination({ dest: 1, sync: false, minLength: 1 })
  #lines = ''
  #timer: NodeJS.Timeout | undefined

  constructor() {
    // pino flushes the output when the process ends, so lines that wait here must be in it by then.
    const flushSync = this.#output.flushSync.bind(this.#output)
    this.#output.flushSync = () => {
      this.#give()
      flushSync()
    }
  }

  write(line: string): void {
    this.#lines += line
    if (this.#timer === undefined) {
      this.#give()
      this.#timer = setTimeout(() => {
        this.#timer = undefined
        this.#give()
      }, GATHER_MS)
    } else if (this.#lines.length > GATHER_LENGTH) this.#give()
  }

  flush(done?: (error?: Error) => void): void {
    this.#give()
    this.#output.flush(done)
  }

  /** pino calls it after a fatal line. */
  flushSync(): void {
    this.#output.flushSync()
  }

  #give(): void {
    if (this.#lines === '') return
    this.#output.write(this.#lines)
    this.#lines = ''
  }
}

const SECRET = /^(?:proxy-?)?authorization$|cookie|password|secret|token$|^credentials$/i
const CREDENTIALS = /\b(basic|bearer)\s+[\w.~+/=-]{8,}|(?<=:\/\/)[^/@\s"]+(?=@)/gi
/** A line that does not match has no credentials: this check takes a tenth of the time. */
const SUSPICIOUS = /(?:basic|bearer)\s|:\/\//i
const DEPTH = 6

/** Nearly all lines are flat and without secrets, and need no copy. */
function concealFields(fields: Record<string, unknown>): Record<string, unknown> {
  for (const key in fields) {
    if (typeof fields[key] === 'object' || SECRET.test(key)) {
      return concealed(fields) as Record<string, unknown>
    }
  }
  return fields
}

/** A copy without the fields whose names say that they are secret. */
function concealed(value: unknown, depth = 0): unknown {
  // The serializer of an error calls this function.
  if (typeof value !== 'object' || value === null || value instanceof Error) return value
  if (depth === DEPTH) return '[deep]'
  if (Array.isArray(value)) return value.map((item) => concealed(item, depth + 1))
  const prototype: unknown = Object.getPrototypeOf(value)
  // Dates, URLs and the like have `toJSON`; a serialized error has a prototype of its own.
  if (prototype !== Object.prototype && prototype !== null && !('stack' in value)) return value
  const copy: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value)) {
    copy[key] =
      SECRET.test(key) && item !== undefined && item !== null ? '[hidden]' : concealed(item, depth + 1)
  }
  return copy
}

/** Many lines share a millisecond, whose text is made once. */
function timestamps(): () => string {
  let last = NaN
  let text = ''
  return () => {
    const now = Date.now()
    if (now !== last) {
      last = now
      text = `,"time":"${new Date(now).toISOString()}"`
    }
    return text
  }
}

/** Waits until every line is written, but not forever: the reader of the log may have gone. */
export async function flushed(log: Logger): Promise<void> {
  const written = new Promise<void>((resolve) => log.flush(() => resolve()))
  await Promise.race([written, sleep(1000, undefined, { ref: false })])
}
