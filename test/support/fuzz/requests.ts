/**
 * Requests as nobody should send them, several on a connection.
 */
import { BODIES, digest, manifestDocument, mediaType } from './documents.ts'
import type { Random } from './random.ts'

/** What one connection sends. */
export interface Batch {
  readonly bytes: Buffer
  /** Of the requests whose beginning and end are beyond doubt. */
  readonly methods: readonly string[]
  /** Nothing more comes, and that is told. */
  readonly ends: boolean
}

/** A name under which nobody may push, and which no upstream knows. */
export const DENIED = 'secret/x'

const METHODS = [
  'GET',
  'GET',
  'GET',
  'HEAD',
  'PUT',
  'PUT',
  'POST',
  'POST',
  'PATCH',
  'DELETE',
  'OPTIONS',
  'TRACE',
]
const ODD_METHODS = ['PROPFIND', 'get', 'FROB', 'G\0T', 'CONNECT', 'PRI', 'X'.repeat(100), '']

const NAMES = [
  'team/a',
  'team/b',
  'team/a/b',
  'other/c',
  'library/nginx',
  DENIED,
  'secret/y/z',
  'docker.io/library/q',
]
const ODD_NAMES = [
  ...[
    'A',
    '..',
    '%2e%2e',
    'a%2fb',
    'team/%00',
    'team/a%20b',
    '%c0%af',
    'team//a',
    'team/',
    '',
    '/',
    '_catalog',
  ],
  ...[
    '%zz',
    'é',
    'a'.repeat(300),
    'team/a-',
    'a/'.repeat(200),
    'team/..%2f..%2fetc',
    'quay.io',
    'a:5000/b',
    '-',
  ],
  ...['__proto__', 'constructor', 'team/manifests', 'blobs/uploads', 'tags/list'],
]
const TAGS = ['1', 'latest', 'v2', `sha256-${'0'.repeat(64)}`]
const ODD_TAGS = [
  '.x',
  '-x',
  'x'.repeat(129),
  '%00',
  '1%2f2',
  '',
  '..',
  'a b',
  '%',
  'sha256-x',
  '1/2',
  '?',
  '#',
]

const NUMBERS = ['0', '1', '-1', '1e9', '99999999999999999999', 'x', '', '%31', '1.5', '0x10', '1000']

/**
 * @param host that is ours
 * @param sessions paths of uploads that were begun
 */
export function batchOf(random: Random, host: string, sessions: readonly string[]): Batch {
  const parts: Buffer[] = []
  const methods: string[] = []
  const count = 4 + random.below(12)
  for (let at = 0; at < count; at++) {
    const { method, bytes } = requestOf(random, host, sessions)
    methods.push(method)
    parts.push(bytes)
  }
  const raw = random.chance(0.3)
  if (raw) parts.push(rawOf(random, host, sessions))
  else {
    methods.push('GET')
    parts.push(Buffer.from(`GET /livez HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`))
  }
  return { bytes: Buffer.concat(parts), methods, ends: raw }
}

/** One whose end is beyond doubt, however it is answered. */
function requestOf(
  random: Random,
  host: string,
  sessions: readonly string[],
): { method: string; bytes: Buffer } {
  const method = random.chance(0.97) ? random.pick(METHODS) : random.pick(['PROPFIND', 'MKCOL', 'M-SEARCH'])
  const takes = ['PUT', 'POST', 'PATCH'].includes(method) ? random.chance(0.85) : random.chance(0.05)
  const target = targetOf(random, method, sessions)
  const headers = headersOf(random, method, host)
  if (!takes) {
    const none = random.chance(0.2) ? ['Content-Length: 0'] : []
    return { method, bytes: headOf(method, target, [...headers, ...none]) }
  }
  const body = bodyOf(random)
  if (random.chance(0.75)) {
    const head = headOf(method, target, [...headers, `Content-Length: ${body.length}`])
    return { method, bytes: Buffer.concat([head, body]) }
  }
  const head = headOf(method, target, [...headers, 'Transfer-Encoding: chunked'])
  return { method, bytes: Buffer.concat([head, chunked(random, body)]) }
}

function headOf(method: string, target: string, headers: readonly string[]): Buffer {
  return Buffer.from(
    `${method} ${target} HTTP/1.1\r\n${headers.map((it) => `${it}\r\n`).join('')}\r\n`,
    'latin1',
  )
}

function nameOf(random: Random): string {
  return random.chance(0.75) ? random.pick(NAMES) : random.pick(ODD_NAMES)
}

function referenceOf(random: Random): string {
  if (random.chance(0.5)) return digest(random)
  return random.chance(0.7) ? random.pick(TAGS) : random.pick(ODD_TAGS)
}

function targetOf(random: Random, method: string, sessions: readonly string[]): string {
  const session = sessions.length > 0 && random.chance(0.4) ? random.pick(sessions) : undefined
  if (session !== undefined && ['PATCH', 'PUT', 'GET', 'DELETE'].includes(method)) {
    if (method !== 'PUT') return session
    return `${session}${session.includes('?') ? '&' : '?'}digest=${digest(random)}`
  }
  if (random.chance(0.04)) {
    return random.pick([
      '*',
      '/',
      '/v2',
      '/metrics',
      '/readyz',
      '/livez',
      '//',
      '/..',
      'http://evil/v2/',
      '/v2/%',
    ])
  }
  const name = nameOf(random)
  const path = random.pick([
    `${name}/manifests/${referenceOf(random)}`,
    `${name}/manifests/${referenceOf(random)}`,
    `${name}/blobs/${digest(random)}`,
    `${name}/blobs/uploads/`,
    `${name}/blobs/uploads/${random.pick(['', 'r1.x', '..', 'a'.repeat(200), '%00'])}`,
    `${name}/tags/list`,
    `${name}/referrers/${digest(random)}`,
    '_catalog',
    name,
    '',
  ])
  return `/v2/${path}${queryOf(random)}`
}

function queryOf(random: Random): string {
  const parts = Array.from({ length: random.chance(0.4) ? 1 + random.below(3) : 0 }, () =>
    random.pick([
      `n=${random.pick(NUMBERS)}`,
      `last=${random.pick([...TAGS, ...ODD_TAGS])}`,
      `digest=${digest(random)}`,
      `mount=${digest(random)}&from=${nameOf(random)}`,
      `from=${nameOf(random)}`,
      `ns=${random.pick(['docker.io', 'quay.io', 'x', '', '..', '%00', 'evil:80/'])}`,
      `artifactType=${random.pick(['a/b', '%', ''])}`,
      `digest-algorithm=${random.pick(['sha512', 'sha256', 'md5'])}`,
      `__proto__=${random.pick(NUMBERS)}`,
      '&=&',
      '%zz=%',
      'x'.repeat(3000),
    ]),
  )
  return parts.length > 0 ? `?${parts.join('&')}` : ''
}

const RANGES = [
  '0-0',
  '0-',
  '-1',
  '-0',
  '5-1',
  '0-99999999999999999999',
  '0-1,3-4',
  'x',
  '',
  '-',
  '1-2-3',
  '0-6',
]

function headersOf(random: Random, method: string, host: string): string[] {
  const headers = [
    `Host: ${random.chance(0.97) ? host : random.pick(['', 'a b', 'evil:80', '[::1', 'x'.repeat(300)])}`,
  ]
  if (random.chance(0.6) && method !== 'GET') headers.push(`Content-Type: ${mediaType(random)}`)
  for (let count = random.below(4); count > 0; count--) {
    headers.push(
      random.pick([
        `Range: ${random.pick(['bytes=', 'BYTES=', '', 'items='])}${random.pick(RANGES)}`,
        `Content-Range: ${random.pick(['', 'bytes '])}${random.pick(RANGES)}${random.pick(['', '/*', '/9'])}`,
        `Accept: ${random.pick(['*/*', '', ',,,', 'a/b;q=x', `${mediaType(random)},`.repeat(30)])}`,
        `If-None-Match: ${random.pick(['*', '"x"', 'W/"', '"'.repeat(50), `"${digest(random)}"`])}`,
        `If-Range: ${random.pick(['"x"', 'yesterday', `"${digest(random)}"`])}`,
        `If-Modified-Since: ${random.pick(['yesterday', 'Thu, 01 Jan 1970 00:00:00 GMT'])}`,
        `Authorization: ${random.pick(['Basic', 'Basic ====', 'Bearer x', 'Digest a=b', ''])}`,
        `Content-Encoding: ${random.pick(['gzip', 'identity', 'x'])}`,
        `Accept-Encoding: ${random.pick(['gzip', '*;q=0', ''])}`,
        `Origin: ${random.pick(['http://evil', 'null', ''])}`,
        `Sec-Fetch-Site: ${random.pick(['cross-site', 'same-origin', 'x'])}`,
        `X-Forwarded-For: ${random.pick(['1.2.3.4', 'x', '"'])}`,
        `X-Forwarded-Proto: ${random.pick(['https', 'gopher'])}`,
        `Forwarded: ${random.pick(['for=1.2.3.4;host=evil', '=;;', ''])}`,
        `Docker-Content-Digest: ${digest(random)}`,
        `OCI-Subject: ${digest(random)}`,
        `User-Agent: ${random.pick(['', 'docker/20 \x9b\xff', 'x'.repeat(2000)])}`,
        `X-${'y'.repeat(random.below(200))}: ${'z'.repeat(random.below(3000))}`,
        'Upgrade: websocket',
        'TE: trailers',
        'Trailer: Content-Length',
        'Connection: keep-alive, x',
        'Keep-Alive: timeout=0',
        'Cookie: a=b',
      ]),
    )
  }
  return headers
}

function bodyOf(random: Random): Buffer {
  return random.pick([
    () => random.pick(BODIES),
    () => manifestDocument(random),
    () => manifestDocument(random),
    () => random.bytes(random.below(300)),
    () => Buffer.alloc(random.below(70_000), 'z'),
  ])()
}

function chunked(random: Random, body: Buffer): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < body.length;) {
    const size = 1 + random.below(random.chance(0.1) ? 3 : body.length)
    const chunk = body.subarray(at, at + size)
    parts.push(Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from('\r\n'))
    at += size
  }
  return Buffer.concat([...parts, Buffer.from('0\r\n\r\n')])
}

/** Bytes of which nobody knows what they ask for, at the end of a connection. */
function rawOf(random: Random, host: string, sessions: readonly string[]): Buffer {
  const { bytes } = requestOf(random, host, sessions)
  const target = targetOf(random, 'PUT', sessions)
  const post = (headers: string, rest: string): Buffer =>
    Buffer.from(`PUT ${target} HTTP/1.1\r\nHost: ${host}\r\n${headers}\r\n\r\n${rest}`, 'latin1')
  return random.pick([
    () => bytes.subarray(0, random.below(bytes.length)),
    () => random.bytes(random.below(400)),
    () => {
      const broken = Buffer.from(bytes)
      for (let count = 1 + random.below(4); count > 0; count--)
        broken[random.below(broken.length)] = random.below(256)
      return broken
    },
    () => headOf(random.pick(ODD_METHODS), target, headersOf(random, 'GET', host)),
    () => Buffer.from(`GET ${target} HTTP/${random.pick(['0.9', '1.0', '2.0', '9', ''])}\r\n\r\n`, 'latin1'),
    () => Buffer.from(`GET ${target}\r\n\r\n`, 'latin1'),
    () => Buffer.from(`GET ${target} HTTP/1.1\n\n`, 'latin1'),
    () =>
      headOf(
        'GET',
        target,
        Array.from({ length: 3000 }, (_, at) => `X-${at}: y`),
      ),
    () => headOf('GET', target, [`X: ${'y'.repeat(90_000)}`]),
    () => headOf('GET', target, ['Host: x', 'Host: y']),
    () => headOf('GET', target, ['Host : x', ' folded', '\x01: y', ': z']),
    () => post(`Content-Length: ${random.pick([...NUMBERS, '1, 2', '+3', '3 3'])}`, 'abc'),
    () => post('Content-Length: 3\r\nContent-Length: 4', 'abcd'),
    () =>
      post(
        'Content-Length: 3\r\nTransfer-Encoding: chunked',
        '0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n',
      ),
    () =>
      post(
        `Transfer-Encoding: ${random.pick(['gzip', 'chunked, gzip', 'xchunked', 'chunked;a', ''])}`,
        '3\r\nabc',
      ),
    () =>
      post(
        'Transfer-Encoding: chunked',
        `${random.pick(['x', '-1', 'ffffffffffffffffff', '3;a="', ''])}\r\nabc`,
      ),
    () =>
      post(
        'Transfer-Encoding: chunked',
        `3\r\nabc\r\n0\r\n${random.pick(['X: y', 'Content-Length: 9', ':'])}\r\n\r\n`,
      ),
    () => post('Expect: 100-continue\r\nContent-Length: 3', random.pick(['', 'abc'])),
    () => post('Content-Length: 100000', 'cut off'),
  ])()
}
