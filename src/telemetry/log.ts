/**
 * The log: pino, one JSON object per line, readable lines on a terminal.
 *
 * The message is a constant phrase, the data is in fields. Secrets are struck out here, wherever in the fields
 * they are, so that a caller who logs a whole object by mistake gives nothing away.
 */
import { pino, stdSerializers, type Logger } from 'pino'
import pretty from 'pino-pretty'

export type Log = Logger

export interface LogOptions {
  readonly level: string
  /** For a person at a terminal. */
  readonly pretty?: boolean
  /** Where lines go; standard output when left out. */
  readonly write?: (line: string) => void
}

export function createLog({ level, pretty: readable = false, write }: LogOptions): Log {
  const options = {
    level,
    // Which machine and process said it is the collector's knowledge.
    base: null,
    serializers: { err: (error: Error) => conceal(stdSerializers.err(error)) },
    formatters: {
      level: (label: string) => ({ level: label }),
      log: (fields: Record<string, unknown>) => conceal(fields) as Record<string, unknown>,
    },
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
  }
  if (readable) {
    // In this thread and synchronous: the last lines before an exit are the ones that matter.
    return pino(
      options,
      pretty({ colorize: write === undefined, sync: true, ...(write && { destination: { write } }) }),
    )
  }
  return write === undefined ? pino(options) : pino(options, { write })
}

const SECRET = /^(?:proxy-?)?authorization$|cookie|password|secret|token$|^credentials$/i
const CREDENTIALS = /\b(basic|bearer)\s+[\w.~+/=-]{8,}|(?<=:\/\/)[^/@\s"]+(?=@)/gi
const DEPTH = 6

/** A copy without secrets; the value itself where there are none to be expected. */
function conceal(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return value.replaceAll(CREDENTIALS, '[hidden]')
  // An error is written by its serializer, which comes back here.
  if (typeof value !== 'object' || value === null || value instanceof Error) return value
  if (depth === DEPTH) return '[deep]'
  if (Array.isArray(value)) return value.map((item) => conceal(item, depth + 1))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null && !('stack' in value)) return value
  const copy: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value)) {
    copy[key] =
      SECRET.test(key) && item !== undefined && item !== null ? '[hidden]' : conceal(item, depth + 1)
  }
  return copy
}
