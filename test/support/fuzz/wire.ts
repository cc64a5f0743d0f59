/**
 * Bytes to a server on a bare socket, and whether what came back has the form of HTTP.
 */
import { connect } from 'node:net'

/** Far longer than any answer takes; a server that says nothing for so long has forgotten somebody. */
const PATIENCE_MS = 60_000

export interface Came {
  readonly bytes: Buffer
  /** The connection was reset: the last answer may be cut off. */
  readonly reset: boolean
  readonly timedOut: boolean
}

/** @param ends that nothing more comes is told; else the server ends the connection */
export function exchange(port: number, bytes: Buffer, ends: boolean): Promise<Came> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let reset = false
    let timedOut = false
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    socket.setTimeout(PATIENCE_MS, () => {
      timedOut = true
      socket.destroy()
    })
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('error', () => (reset = true))
    socket.on('end', () => socket.end())
    socket.on('close', () => resolve({ bytes: Buffer.concat(chunks), reset, timedOut }))
    if (ends) socket.end(bytes)
    else socket.write(bytes)
  })
}

export interface Answer {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
}

export class NotHttp extends Error {}

const STATUS_LINE = /^HTTP\/1\.1 ([1-5]\d\d) [\x20-\x7e]*$/
const FIELD = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)$/

/**
 * The final answers in what came.
 *
 * @param methods of the requests, as far as they are known: an answer to HEAD has no body
 * @throws NotHttp where it is not that
 */
export function answersIn({ bytes, reset }: Came, methods: readonly string[]): Answer[] {
  const answers: Answer[] = []
  const text = bytes.toString('latin1')
  let at = 0
  const cutOff = (why: string): Answer[] => {
    if (!reset) throw new NotHttp(`${why}: ${JSON.stringify(text.slice(at, at + 200))}`)
    return answers
  }
  while (at < text.length) {
    const end = text.indexOf('\r\n\r\n', at)
    if (end < 0) return cutOff('a head that does not end')
    const [first = '', ...lines] = text.slice(at, end).split('\r\n')
    const status = Number(STATUS_LINE.exec(first)?.[1] ?? NaN)
    if (Number.isNaN(status))
      throw new NotHttp(`no status line at ${at}: ${JSON.stringify(first.slice(0, 80))}`)
    const headers = new Map<string, string>()
    for (const line of lines) {
      const [, name, value] = FIELD.exec(line) ?? []
      if (name === undefined) throw new NotHttp(`no header: ${JSON.stringify(line.slice(0, 80))}`)
      headers.set(name.toLowerCase(), value ?? '')
    }
    at = end + 4
    if (status < 200) continue
    const method = methods[answers.length]
    answers.push({ status, headers })
    const length = headers.get('content-length')
    if (status === 204 || status === 304) continue
    if (method === 'HEAD') {
      // Of what was not even a request nobody knows that it was to be HEAD; nothing follows then.
      if (text.length - at === Number(length) && headers.get('connection') === 'close') at = text.length
      continue
    }
    if (headers.get('transfer-encoding') === 'chunked') {
      at = endOfChunks(text, at)
      if (at < 0) return cutOff('chunks that do not end')
    } else if (length !== undefined) {
      if (!/^\d+$/.test(length)) throw new NotHttp(`a length of ${length}`)
      // Of what nobody knows whether it was HEAD the body may be left out.
      const none = method === undefined && (at === text.length || text.startsWith('HTTP/1.1 ', at))
      if (!none) at += Number(length)
      if (at > text.length) return cutOff('a body that does not end')
    } else at = text.length
  }
  return answers
}

function endOfChunks(text: string, start: number): number {
  for (let at = start; ;) {
    const end = text.indexOf('\r\n', at)
    if (end < 0) return -1
    const size = parseInt(text.slice(at, end), 16)
    if (Number.isNaN(size)) throw new NotHttp('a chunk without a size')
    at = end + 2 + size + 2
    if (at > text.length) return -1
    if (size === 0) return at
  }
}
