/** Access log: one line and the metrics per finished request. Never `Authorization`, never a query. */
import type { Logger } from 'pino'
import { OciError } from '../oci/errors.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { Exchange } from './exchange.ts'
import { PROBES } from './health.ts'

/** Label values: the parser knows three dozen methods, and the registry answers none of the others. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

export function logAccess(exchange: Exchange, log: Logger, metrics: Metrics): void {
  const { request, response, method, fields } = exchange
  const status = response.headersSent ? response.statusCode : undefined
  const seconds = (performance.now() - exchange.startedAt) / 1000
  const { level, message, facts } = outcome(exchange)
  log[level](
    {
      reqId: exchange.id,
      method,
      ...fields,
      // Only without a route: a repository's path is in `repo`.
      ...(fields.route === undefined ? { path: pathOf(request.url) } : {}),
      status,
      bytes: exchange.bytes,
      durationMs: Math.round(seconds * 1000),
      remote: exchange.remote,
      ...facts,
    },
    message,
  )
  metrics.requestDuration.observe(
    {
      method: METHODS.has(method) ? method : 'other',
      route: fields.route ?? 'none',
      code: String(status ?? 'none'),
    },
    seconds,
  )
  if (fields.cache !== undefined && fields.route !== undefined && exchange.bytes > 0) {
    metrics.servedBytes.inc({ kind: fields.route, cache: fields.cache }, exchange.bytes)
  }
}

interface Outcome {
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  readonly message: string
  readonly facts: Readonly<Record<string, unknown>>
}

/** The level says what the operator has to do: nothing (info), look at it some time (warn), act now (error). */
function outcome({ failure, response, signal, fields }: Exchange): Outcome {
  if (failure === undefined) {
    if (signal.aborted) return { level: 'info', message: 'client left', facts: {} }
    const probe = fields.route !== undefined && PROBES.has(fields.route)
    return { level: probe ? 'debug' : 'info', message: 'served', facts: {} }
  }
  const brokenOff = !response.writableFinished
  if (!(failure instanceof OciError)) {
    return { level: 'error', message: brokenOff ? 'broken off' : 'failed', facts: { err: failure } }
  }
  // The stack of an expected error tells nothing, and an outage makes many of these lines.
  const causes = causesOf(failure)
  const facts = { code: failure.code, reason: failure.message, detail: failure.detail, causes }
  if (failure.status < 500 && !brokenOff) return { level: 'info', message: 'refused', facts }
  return { level: 'warn', message: brokenOff ? 'broken off' : 'failed', facts }
}

/** Messages of the causes, nearest first. */
function causesOf(error: Error): string[] {
  const causes: string[] = []
  for (let { cause } = error; cause instanceof Error && causes.length < 5; { cause } = cause) {
    causes.push(cause.message)
  }
  return causes
}

function pathOf(target: string | undefined): string | undefined {
  return target?.split('?', 1)[0]?.slice(0, 200)
}
