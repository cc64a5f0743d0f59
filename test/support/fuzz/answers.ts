/**
 * An upstream that answers as no registry should, on real sockets.
 *
 * What it says depends on the seed, the case that the path names, and how often that was asked.
 */
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { gzipSync } from 'node:zlib'
import { BODIES, digest, listDocument, manifestDocument, mediaType } from './documents.ts'
import { Random } from './random.ts'

export class HostileUpstream implements AsyncDisposable {
  /** Answers given so far. */
  answered = 0
  readonly #seed: number
  readonly #sockets = new Set<Socket>()
  /** By case: what was asked and said, shortened. */
  readonly #said = new Map<number, string[]>()
  readonly #server = createServer((socket) => this.#serve(socket))
  #url = ''

  constructor(seed: number) {
    this.#seed = seed
  }

  get url(): string {
    return this.#url
  }

  async listen(): Promise<this> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    this.#url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
    return this
  }

  /** What was asked and said of a case, for people. */
  said(number: number): string {
    return (this.#said.get(number) ?? []).join('\n')
  }

  forget(number: number): void {
    this.#said.delete(number)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket)
    let asked = ''
    socket.on('error', () => undefined)
    socket.on('close', () => this.#sockets.delete(socket))
    socket.on('data', (chunk: Buffer) => {
      asked += chunk.toString('latin1')
      const end = asked.indexOf('\r\n\r\n')
      if (end < 0) return
      const head = asked.slice(0, end)
      asked = ''
      this.#answer(socket, head)
    })
  }

  #answer(socket: Socket, head: string): void {
    const [line = ''] = head.split('\r\n')
    const number = Number(/\/c(\d+)\b/.exec(line)?.[1] ?? 0)
    const said = this.#said.get(number) ?? []
    this.#said.set(number, said)
    const random = new Random(this.#seed, number * 64 + said.length)
    const { bytes, stays } = answerTo(random, line, number, this.#url)
    this.answered += 1
    said.push(`> ${line}\n< ${JSON.stringify(bytes.toString('latin1', 0, 1500))}`)
    if (random.chance(0.02)) socket.resetAndDestroy()
    else if (stays) socket.write(bytes)
    else socket.end(bytes)
  }
}

const STATUSES = [200, 200, 200, 200, 200, 206, 301, 302, 307, 308, 401, 401, 403, 404, 429, 500, 503]
const ODD_STATUSES = [
  100, 101, 102, 103, 199, 201, 202, 204, 205, 226, 300, 303, 304, 305, 400, 402, 405, 407, 408,
]
const MORE_STATUSES = [410, 412, 416, 418, 421, 451, 501, 502, 504, 511, 599]

/** Without a status line that anybody takes for one. */
const NO_HEADS = [
  '',
  'HTTP/1.1',
  'HTTP/1.1 \r\n\r\n',
  'HTTP/1.1 99 x\r\n\r\n',
  'HTTP/1.1 1000 x\r\n\r\n',
  'HTTP/2.0 200 OK\r\n\r\n',
  'HTTP/9 200 OK\r\n\r\n',
  'ICY 200 OK\r\n\r\n',
  'SSH-2.0-x\r\n',
  '<html>',
  '\x15\x03\x01\x00\x02\x02\x28',
  'HTTP/1.1 200 OK\r\nX',
  'HTTP/1.1 200 OK\r\nX y\r\n\r\n',
  'HTTP/1.1 200 OK\r\nX\0: y\r\n\r\n',
  'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
  'HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n',
  'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n',
  'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n',
  `HTTP/1.1 200 OK\r\nX: ${'y'.repeat(100_000)}\r\n\r\n`,
  `HTTP/1.1 200 OK\r\n${'X: y\r\n'.repeat(5000)}\r\n`,
  'HTTP/1.1 100 Continue\r\n\r\n'.repeat(200),
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz',
]

function answerTo(
  random: Random,
  line: string,
  number: number,
  url: string,
): { bytes: Buffer; stays: boolean } {
  if (random.chance(0.06)) return { bytes: Buffer.from(random.pick(NO_HEADS), 'latin1'), stays: false }
  const status = random.pick(random.chance(0.85) ? STATUSES : [...ODD_STATUSES, ...MORE_STATUSES])
  const plain = bodyFor(random, line)
  const zipped = random.chance(0.1)
  const body = zipped ? packed(random, plain) : plain
  const fields = fieldsFor(random, status, number, url, line)
  if (zipped)
    fields.push(`Content-Encoding: ${random.pick(['gzip', 'gzip', 'x-gzip', 'br', 'deflate', 'zstd', 'x'])}`)
  const kind = random.below(10)
  const framed =
    kind < 6
      ? { field: [`Content-Length: ${body.length}`], bytes: body }
      : kind === 6
        ? { field: [`Content-Length: ${random.pick([0, body.length + 10, 2 ** 40, 3])}`], bytes: body }
        : kind === 7
          ? { field: [], bytes: body }
          : { field: ['Transfer-Encoding: chunked'], bytes: chunks(random, body) }
  const reason = random.pick(['OK', '', '\x80\xff', 'x'.repeat(300)])
  const head = [`HTTP/1.1 ${status} ${reason}`, ...fields, ...framed.field].join('\r\n')
  const bytes = Buffer.concat([
    Buffer.from(random.chance(0.03) ? 'HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n' : ''),
    Buffer.from(`${head}\r\n\r\n`, 'latin1'),
    line.startsWith('HEAD') && random.chance(0.9) ? Buffer.alloc(0) : framed.bytes,
  ])
  if (random.chance(0.05)) return { bytes: bytes.subarray(0, random.below(bytes.length)), stays: false }
  // An end that only the connection's tells must come.
  return { bytes, stays: kind < 6 && random.chance(0.5) }
}

function bodyFor(random: Random, line: string): Buffer {
  if (random.chance(0.1))
    return random.pick([...BODIES, Buffer.from('<html>'), random.bytes(300), Buffer.alloc(200_000)])
  if (line.includes('/token/')) return listDocument(random)
  if (line.includes('/blobs/') || line.includes('/cdn/')) return random.pick(BODIES)
  if (line.includes('/manifests/')) return manifestDocument(random)
  return listDocument(random)
}

/** Twenty megabytes in twenty kilobytes, what is no archive, or a good one. */
function packed(random: Random, plain: Buffer): Buffer {
  if (random.chance(0.1)) return BOMB
  return random.chance(0.2) ? plain : gzipSync(plain)
}

const BOMB = gzipSync(Buffer.alloc(20 * 2 ** 20))

function chunks(random: Random, body: Buffer): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < body.length;) {
    const chunk = body.subarray(at, at + 1 + random.below(body.length))
    parts.push(
      Buffer.from(`${chunk.length.toString(16)}${random.pick(['', ';a=b'])}\r\n`),
      chunk,
      Buffer.from('\r\n'),
    )
    at += chunk.length
  }
  const ends = ['0\r\n\r\n', '0\r\n\r\n', '0\r\nX: y\r\n\r\n', '', '0\r\n', 'x\r\n', '-1\r\n']
  return Buffer.concat([...parts, Buffer.from(random.pick(ends))])
}

function fieldsFor(random: Random, status: number, number: number, url: string, line: string): string[] {
  const fields: string[] = []
  const target = (): string =>
    random.pick([
      `/cdn/c${number}`,
      `${url}/cdn/c${number}?x=${'y'.repeat(random.below(50))}`,
      line.split(' ')[1] ?? '/',
      '',
      '//',
      'http://',
      'http://169.254.169.254/latest/meta-data',
      'http://[64:ff9b::7f00:1]/',
      'file:///etc/passwd',
      'https://x:y@127.0.0.1:1/',
      'http://127.0.0.1:99999/',
      'x'.repeat(9000),
      '/\x80\xff',
      '/%00%zz',
    ])
  if (status >= 300 && status < 400 && random.chance(0.9)) fields.push(`Location: ${target()}`)
  if (status === 401 || random.chance(0.05))
    fields.push(`WWW-Authenticate: ${challenge(random, number, url)}`)
  if (random.chance(0.7)) fields.push(`Content-Type: ${mediaType(random)}`)
  if (random.chance(0.4)) fields.push(`Docker-Content-Digest: ${digest(random)}`)
  if (random.chance(0.3)) fields.push(`Link: ${link(random, number, url)}`)
  for (let count = random.below(3); count > 0; count--) {
    fields.push(
      random.pick([
        `Retry-After: ${random.pick(['0', '-1', 'x', '1', 'Thu, 01 Jan 1970 00:00:00 GMT', '0.1', ''])}`,
        `RateLimit-Remaining: ${random.pick(['100;w=21600', '-1', 'x', '1e9;w=0', ';;', '99;w=99999999999999'])}`,
        `RateLimit-Limit: ${random.pick(['100;w=21600', 'x', '0;w=-1'])}`,
        `ETag: ${random.pick(['"x"', 'W/"', '', `"${digest(random)}"`])}`,
        `Content-Range: ${random.pick(['bytes 0-1/2', 'bytes 5-1/3', 'bytes */x', 'x', 'bytes 0-9/*'])}`,
        `Accept-Ranges: ${random.pick(['bytes', 'none', 'x'])}`,
        `OCI-Filters-Applied: ${random.pick(['artifactType', ',', ''])}`,
        `Docker-Distribution-Api-Version: ${random.pick(['registry/2.0', 'x'])}`,
        `Set-Cookie: a=${'b'.repeat(random.below(2000))}`,
        `Date: ${random.pick(['yesterday', ''])}`,
        `Age: ${random.pick(['-1', 'x', '99999999999'])}`,
        'Connection: close',
        'Connection: x, keep-alive',
        'Keep-Alive: timeout=0',
        'Warning: 299 - "\x1b[2J"',
        `X-${'y'.repeat(random.below(300))}: \x80\xff`,
      ]),
    )
  }
  return fields
}

function challenge(random: Random, number: number, url: string): string {
  const realm = random.pick([
    `${url}/token/c${number}`,
    `${url}/token/c${number}`,
    `/token/c${number}`,
    'http://169.254.169.254/',
    'http://127.0.0.1:1/',
    'x'.repeat(3000),
    '',
    'file:///',
  ])
  return random.pick([
    `Bearer realm="${realm}",service="x",scope="repository:c${number}:pull"`,
    `Bearer realm="${realm}",service="x",scope="repository:c${number}:pull",error="invalid_token"`,
    `bearer REALM=${realm}`,
    `Bearer realm="${realm}`,
    `Bearer ${'a="b",'.repeat(500)}`,
    `Bearer ${'\\"'.repeat(500)}`,
    'Basic realm="x"',
    `Basic realm="x", Bearer realm="${realm}"`,
    'Negotiate',
    '=,=,=',
    '',
  ])
}

function link(random: Random, number: number, url: string): string {
  const path = `/v2/c${number}/tags/list`
  return random.pick([
    `<${path}?n=10&last=a>; rel="next"`,
    `<${path}?n=10&last=${random.below(1000)}>; rel=next`,
    `<${url}${path}?last=b>; rel="next"`,
    `<http://evil.example${path}>; rel="next"`,
    `<?last=c>; rel="next"`,
    '<>; rel="next"',
    `<${'<'.repeat(3000)}`,
    '<a>; rel="x", '.repeat(300),
    '; rel="next"',
    `<${path}>; ${'a;'.repeat(2000)} rel="next"`,
  ])
}
