/**
 * Control socket of a running server: `<storage.root>/control.sock`.
 *
 * A client that can connect may do everything, so no other user may ever connect: the socket is bound in a folder
 * that only this user may enter, and moved to its place with its mode set. A socket found there is a crashed
 * server's, since this process owns the folder.
 */
import { once } from 'node:events'
import { chmodSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import path from 'node:path'
import type { Logger } from 'pino'
import { OciError } from '../../oci/errors.ts'
import { OperatorError } from '../../base/operator-error.ts'
import { OPERATIONS, type OperationName, type Operations } from '../operations.ts'
import { SOCKET, shortFolder } from './socket-path.ts'
import type { End, Line, Presence } from './protocol.ts'

const MAX_ARGUMENTS_BYTES = 64 * 1024

/** Limit for a client that reads none of its events: it may be stopped, and never go on. */
const STALL_MS = 60_000

/** Limit for receiving the arguments: they come from this machine. */
const ARGUMENTS_MS = 10_000

const BIND_FOLDER = 'control.new'

interface ControlOptions {
  readonly root: string
  readonly operations: Operations
  readonly log: Logger
}

/**
 * Listens. Dispose to stop: running operations are aborted, and their clients are told so.
 *
 * If the folder takes no sockets, the server serves all the same: commands then wait until it has ended.
 */
export async function openControl(options: ControlOptions): Promise<AsyncDisposable> {
  const { root, log } = options
  const control = new Control(options)
  try {
    await control.listen()
  } catch (err) {
    log.warn({ err, root }, 'no control socket: commands that write will find the folder in use')
  }
  return control
}

class Control implements AsyncDisposable {
  readonly #options: ControlOptions
  readonly #server: Server
  readonly #running = new Set<Promise<void>>()
  readonly #stopping = new AbortController()

  constructor(options: ControlOptions) {
    this.#options = options
    this.#server = createServer({ requestTimeout: ARGUMENTS_MS }, (request, response) => {
      const done = this.#answer(request, response).finally(() => this.#running.delete(done))
      this.#running.add(done)
    })
    this.#server.on('error', (err) => options.log.debug({ err }, 'the control socket had trouble'))
  }

  async listen(): Promise<void> {
    const { root } = this.#options
    using folder = shortFolder(root)
    const bindFolder = path.join(folder.path, BIND_FOLDER)
    rmSync(bindFolder, { recursive: true, force: true })
    mkdirSync(bindFolder, { mode: 0o700 })
    try {
      const bound = path.join(bindFolder, SOCKET)
      this.#server.listen(bound)
      await once(this.#server, 'listening')
      chmodSync(bound, 0o600)
      renameSync(bound, path.join(root, SOCKET))
    } catch (error) {
      this.#server.close()
      throw error
    } finally {
      rmSync(bindFolder, { recursive: true, force: true })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The name goes first: a command that comes now finds no server, and waits for the folder.
    if (this.#server.listening) rmSync(path.join(this.#options.root, SOCKET), { force: true })
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.#stopping.abort(new Error('the server is stopping'))
    await Promise.all(this.#running)
    this.#server.closeAllConnections()
    await closed
  }

  /** Never rejects. */
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on('error', () => undefined)
    try {
      const name = request.url?.slice(1)
      if (request.method === 'GET' && name === '') {
        json(response, 200, { pid: process.pid } satisfies Presence)
        return
      }
      const operation = OPERATIONS.find((it) => it === name)
      if (request.method !== 'POST' || operation === undefined) {
        json(response, 404, { message: `this server does not know the command ${String(name)}` })
        return
      }
      const args = await readArguments(request)
      if (args === undefined) json(response, 400, { message: 'the arguments are not a JSON object' })
      else await this.#run(operation, args, response)
    } catch (err) {
      this.#options.log.debug({ err }, 'a command was broken off')
      response.destroy()
    }
  }

  async #run(operation: OperationName, args: object, response: ServerResponse): Promise<void> {
    const { operations, log } = this.#options
    const gone = new AbortController()
    response.once('close', () => gone.abort(new Error('the client has gone')))
    const signal = AbortSignal.any([gone.signal, this.#stopping.signal])
    // The head leaves before the first event, which may take long: it says that the server took the command.
    response.writeHead(200, { 'content-type': 'application/x-ndjson', connection: 'close' }).flushHeaders()
    log.debug({ operation, ...args }, 'a command begins')
    const started = performance.now()
    let last: End = { end: 'done' }
    try {
      signal.throwIfAborted()
      // The operation itself parses its arguments.
      for await (const event of operations[operation](args as never, signal)) {
        await send(response, { event }, signal)
      }
    } catch (error) {
      last = endOf(error, signal)
      if (last.end === 'failed') log.error({ err: error, operation }, 'a command failed')
    }
    const durationMs = Math.round(performance.now() - started)
    log.info({ operation, ...args, end: gone.signal.aborted ? 'abandoned' : last.end, durationMs }, 'command')
    response.end(`${JSON.stringify(last)}\n`)
    // Shutdown waits until the last line has left, or the client has gone.
    if (!response.closed) await once(response, 'close', { signal: AbortSignal.timeout(ARGUMENTS_MS) })
  }
}

function endOf(error: unknown, signal: AbortSignal): End {
  if (error instanceof OperatorError || error instanceof OciError)
    return { end: 'refused', message: error.message }
  const message = error instanceof Error ? error.message : String(error)
  return { end: signal.aborted ? 'stopped' : 'failed', message }
}

/** Backpressure: waits while the client does not read, so that no events pile up here. */
async function send(response: ServerResponse, line: Line, signal: AbortSignal): Promise<void> {
  if (response.write(`${JSON.stringify(line)}\n`)) return
  await once(response, 'drain', { signal: AbortSignal.any([signal, AbortSignal.timeout(STALL_MS)]) })
}

async function readArguments(request: IncomingMessage): Promise<object | undefined> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > MAX_ARGUMENTS_BYTES) return undefined
    chunks.push(chunk)
  }
  try {
    const args: unknown = JSON.parse(Buffer.concat(chunks).toString())
    return typeof args === 'object' && args !== null ? args : undefined
  } catch {
    return undefined
  }
}

function json(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json', connection: 'close' })
  response.end(JSON.stringify(body))
}
