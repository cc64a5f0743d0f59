/**
 * The log: pino, one JSON object per line, readable lines on a terminal.
 *
 * The message is a constant phrase, the data is in fields. Secrets are struck out here, wherever in the fields
 * they are, so that a caller who logs a whole object by mistake gives nothing away; so are characters that a terminal
 * would act upon.
 */
import { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { destination, pino, stdSerializers, type Logger, type LoggerOptions } from 'pino'
import pretty from 'pino-pretty'
import { plainJson, shownJson } from './control-characters.ts'

interface LogOptions {
  readonly level: string
  /** For a person at a terminal. */
  readonly pretty?: boolean
  /** Where lines go; standard output when left out. */
  readonly write?: (line: string) => void
}

export function createLog({ level, pretty: readable = false, write }: LogOptions): Logger {
  // What is made readable is taken out of the JSON again, escapes and all.
  const shown = readable ? plainJson : shownJson
  const options: LoggerOptions = {
    level,
    // Which machine and process said it is the collector's knowledge.
    base: null,
    serializers: { err: (error: Error) => concealed(stdSerializers.err(error)) },
    formatters: { level: (label) => ({ level: label }), log: concealFields },
    // Texts are looked at once, in the finished line: messages and stacks included.
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
  // In this thread and synchronous: the last lines before an exit are the ones that matter.
  const terminal = { colorize: output === undefined, sync: true, ...(output && { destination: output }) }
  return pino(options, pretty(terminal))
}

/** How long a line may wait for others. */
const GATHER_MS = 20
const GATHER_LENGTH = 64 * 1024

/**
 * A line after a silence leaves at once, those that follow it closely leave together: a write for each would cost
 * more than all else about it. None is lost when the process ends in its own way, nor by `process.exit`.
 */
class StandardOutput {
  // Not synchronous: a slow reader of the log must not stop the server. With a length of at least one, `flush`
  // waits for what is under way.
  readonly #output = destination({ dest: 1, sync: false, minLength: 1 })
  #lines = ''
  #timer: NodeJS.Timeout | undefined

  constructor() {
    // pino has it flushed when the process ends, in whatever way: then what waits here has to be in it.
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

  /** pino calls it after a line that is fatal. */
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
/** What every line with credentials in it has; told in a tenth of the time. */
const SUSPICIOUS = /(?:basic|bearer)\s|:\/\//i
const DEPTH = 6

/** Nearly all lines are flat and know no secrets: those need no copy. */
function concealFields(fields: Record<string, unknown>): Record<string, unknown> {
  for (const key in fields) {
    if (typeof fields[key] === 'object' || SECRET.test(key)) {
      return concealed(fields) as Record<string, unknown>
    }
  }
  return fields
}

/** A copy without the fields that are secrets by their names. */
function concealed(value: unknown, depth = 0): unknown {
  // An error is written by its serializer, which comes back here.
  if (typeof value !== 'object' || value === null || value instanceof Error) return value
  if (depth === DEPTH) return '[deep]'
  if (Array.isArray(value)) return value.map((item) => concealed(item, depth + 1))
  const prototype: unknown = Object.getPrototypeOf(value)
  // Dates, URLs and the like write themselves; what an error was serialized to has a prototype of its own.
  if (prototype !== Object.prototype && prototype !== null && !('stack' in value)) return value
  const copy: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value)) {
    copy[key] =
      SECRET.test(key) && item !== undefined && item !== null ? '[hidden]' : concealed(item, depth + 1)
  }
  return copy
}

/** Many lines are of one millisecond, and its text costs more than all else about the time. */
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

/** Waits until everything logged is written; not for ever, as its reader may have gone. */
export async function flushed(log: Logger): Promise<void> {
  const written = new Promise<void>((resolve) => log.flush(() => resolve()))
  await Promise.race([written, sleep(1000, undefined, { ref: false })])
}
