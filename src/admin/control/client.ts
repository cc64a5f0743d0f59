/** Client of the control socket: calls the operations of a running server like those of this process. */
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { OperatorError } from '../../base/operator-error.ts'
import { OPERATIONS, type OperationName, type Operations } from '../operations.ts'
import { SOCKET, shortFolder } from './socket-path.ts'
import type { Line, Presence } from './protocol.ts'

const PRESENCE_MS = 10_000

/**
 * @returns undefined when no server listens
 * @throws OperatorError when the server that listens does not answer, or is another user's
 */
export async function connectToServer(root: string, signal: AbortSignal): Promise<Operations | undefined> {
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
  const calls = OPERATIONS.map(
    (name) => [name, (args: object, signal: AbortSignal) => call(root, pid, name, args, signal)] as const,
  )
  return Object.fromEntries(calls) as unknown as Operations
}

/** Leaving the loop, or aborting, also ends the operation in the server. */
async function* call(
  root: string,
  pid: number,
  operation: OperationName,
  args: object,
  signal: AbortSignal,
): AsyncGenerator<unknown, void, undefined> {
  const response = await send(root, 'POST', operation, JSON.stringify(args), signal)
  try {
    if (response.statusCode !== 200) {
      const { message } = JSON.parse(await text(response)) as { message?: string }
      throw new OperatorError(
        `${message ?? 'the command was not understood'}: process ${pid} is another version`,
      )
    }
    for await (const line of lines(response)) {
      if ('event' in line) yield line.event
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
  const sent = request({ socketPath, method, path: `/${target}`, headers, signal })
  // After the head, the response emits the same error.
  sent.on('error', () => undefined)
  sent.end(body)
  const [response] = (await once(sent, 'response', { signal })) as [IncomingMessage]
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
