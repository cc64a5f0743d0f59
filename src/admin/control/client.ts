/**
 * The other end of the control socket: the operations of a running server, as if they were here.
 */
import { once } from 'node:events'
import { request, type ClientRequest, type IncomingMessage } from 'node:http'
import path from 'node:path'
import { OperatorError } from '../../base/operator-error.ts'
import type { OperationName, Operations } from '../operations.ts'
import { SOCKET, shortFolder } from './socket-path.ts'
import type { Line, Presence } from './protocol.ts'

const PRESENCE_MS = 10_000

/**
 * @returns undefined when nobody listens
 * @throws OperatorError when somebody does whom we cannot talk to
 */
export async function reachServer(root: string, signal: AbortSignal): Promise<Operations | undefined> {
  let presence: Presence
  try {
    const inTime = AbortSignal.any([signal, AbortSignal.timeout(PRESENCE_MS)])
    presence = JSON.parse(await text(await send(root, 'GET', '', undefined, inTime))) as Presence
  } catch (error) {
    signal.throwIfAborted()
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ECONNREFUSED') return undefined
    const socket = path.resolve(root, SOCKET)
    if (code === 'EACCES' || code === 'EPERM') {
      throw new OperatorError(
        `${socket} belongs to another user: run the command as the one who runs the server`,
      )
    }
    throw new OperatorError(`the server that listens on ${socket} does not answer`, { cause: error })
  }
  const { pid } = presence
  return {
    gc: (args, signal) => ask(root, pid, 'gc', args, signal),
    evict: (args, signal) => ask(root, pid, 'evict', args, signal),
    rm: (args, signal) => ask(root, pid, 'rm', args, signal),
    release: (args, signal) => ask(root, pid, 'release', args, signal),
    explain: (args, signal) => ask(root, pid, 'explain', args, signal),
    ls: (args, signal) => ask(root, pid, 'ls', args, signal),
    refresh: (args, signal) => ask(root, pid, 'refresh', args, signal),
    verify: (args, signal) => ask(root, pid, 'verify', args, signal),
    backup: (args, signal) => ask(root, pid, 'backup', args, signal),
    restore: (args, signal) => ask(root, pid, 'restore', args, signal),
  }
}

type EventOf<N extends OperationName> =
  ReturnType<Operations[N]> extends AsyncIterable<infer Event> ? Event : never

/** Leaving the loop, or aborting, ends the operation over there as well. */
async function* ask<N extends OperationName>(
  root: string,
  pid: number,
  operation: N,
  args: Parameters<Operations[N]>[0],
  signal: AbortSignal,
): AsyncGenerator<EventOf<N>, void, undefined> {
  const response = await send(root, 'POST', operation, JSON.stringify(args), signal)
  try {
    if (response.statusCode !== 200) {
      const { message } = JSON.parse(await text(response)) as { message?: string }
      throw new OperatorError(
        `${message ?? 'the command was not understood'}: process ${pid} is another version`,
      )
    }
    for await (const line of lines(response)) {
      if ('event' in line) yield line.event as EventOf<N>
      else if (line.end === 'done') return
      else if (line.end === 'refused') throw new OperatorError(line.message)
      else throw new OperatorError(`${line.end} by process ${pid}: ${line.message}`)
    }
    throw new OperatorError(`process ${pid} went away in the middle`)
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof OperatorError) throw error
    throw new OperatorError(`process ${pid} went away in the middle`, { cause: error })
  } finally {
    response.destroy()
  }
}

async function send(
  root: string,
  method: string,
  target: string,
  body: string | undefined,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  using folder = shortFolder(root)
  const socketPath = path.join(folder.path, SOCKET)
  const headers = { host: 'entrepot', connection: 'close' }
  const asking: ClientRequest = request({ socketPath, method, path: `/${target}`, headers, signal })
  // What comes after the head is told by the response.
  asking.on('error', () => undefined)
  asking.end(body)
  const [response] = (await once(asking, 'response', { signal })) as [IncomingMessage]
  response.on('error', () => undefined)
  return response
}

async function* lines(response: IncomingMessage): AsyncGenerator<Line> {
  let rest = ''
  for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) {
    const parts = (rest + chunk).split('\n')
    rest = parts.pop() ?? ''
    for (const part of parts) yield JSON.parse(part) as Line
  }
}

async function text(response: IncomingMessage): Promise<string> {
  let all = ''
  for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) all += chunk
  return all
}
