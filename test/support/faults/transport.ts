/**
 * Connections and bodies that fail.
 */
import type { Behaviour, Matcher } from '../upstream-rules.ts'
import {
  EXPIRED_CERTIFICATE,
  OTHER_HOSTS_CERTIFICATE,
  TEST_CA_FILE,
  TEST_CERTIFICATE,
  TEST_KEY,
} from '../upstream-tls.ts'
import type { UpstreamSimulator } from '../upstream.ts'
import type { Fault } from './fault.ts'

type Endings = Fault['endings']

/** No answer is to be had at all. */
const NOTHING: Endings = { cold: ['refused'], 'in flight': ['broken', 'refused'] }
/** Heads come, and what follows is no good: what is small enough to be held back is refused. */
const NO_BODY: Endings = { cold: ['broken', 'refused'], 'in flight': ['broken', 'refused'] }

/** What is found out before a download begins, a stream of one's own may find out later. */
const NO_LENGTH: Endings = { ...NOTHING, 'disk full': ['refused', 'broken'] }
/** What nobody keeps ends where its manifest says that it does. */
const ENDLESS: Endings = { cold: ['broken', 'refused'], 'disk full': ['served', 'broken', 'refused'] }

const BLOB: Matcher = { kind: 'blob', method: 'GET' }
/** Of the large layer, a good part. */
const PIECE = 300_000

/** From now on these requests are answered like this. */
function answers(name: string, matcher: Matcher, behaviour: Behaviour, endings: Endings = {}): Fault {
  return {
    name,
    section: '4.4',
    begin: (upstream) => {
      upstream.fault(matcher, behaviour)
    },
    endings,
  }
}

/** The same for the answers to a transfer that was broken off before. */
function continues(name: string, behaviour: Behaviour, endings: Endings = {}): Fault {
  return {
    name,
    section: '4.4',
    begin: (upstream) => {
      upstream.fault(BLOB, behaviour)
      upstream.fault({ ...BLOB, times: 3 }, { dropAfterBytes: PIECE })
    },
    endings,
  }
}

/** The first two tries for each thing are answered like this; the third one is not. */
function twiceForEach(name: string, behaviour: Behaviour): Fault {
  return {
    name,
    section: '4.4',
    begin: (upstream, { image }) => {
      const refs = [...image.manifests, ...image.blobs].map(({ digest }) => digest)
      for (const ref of refs) upstream.fault({ ref, times: 2 }, behaviour)
      upstream.fault({ when: (entry) => !entry.ref?.includes(':'), times: 2 }, behaviour)
    },
    endings: {},
  }
}

/** Of an upstream that spoke TLS well before. */
function overTls(name: string, begin: (upstream: UpstreamSimulator) => void | Promise<void>): Fault {
  return {
    name,
    section: '4.4',
    upstream: { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } },
    settings: { ca: TEST_CA_FILE },
    begin,
    // A connection that is there already knows nothing of the new certificate, and may bring the rest.
    endings: { ...NOTHING, 'in flight': ['broken', 'refused', 'served'] },
  }
}

const SLOW: readonly Fault[] = [
  answers('latencyMs', {}, { latencyMs: 300 }),
  answers('ttfbMs', {}, { ttfbMs: 300 }),
  answers('bytesPerSecond', BLOB, { bytesPerSecond: 500_000 }),
  answers('slowloris: head', {}, { slowloris: { in: 'head', everyMs: 100 } }, NOTHING),
  answers('slowloris: body', {}, { slowloris: { in: 'body', everyMs: 100, afterBytes: PIECE } }),
  {
    name: 'hang: connect',
    section: '4.4',
    begin: (upstream) => upstream.hang('connect'),
    endings: NOTHING,
  },
  overTls('hang: tls', (upstream) => upstream.hang('tls')),
  answers('hang: headers', {}, { hang: 'headers' }, NOTHING),
  answers('hang: midBody', BLOB, { hang: 'midBody', hangAfterBytes: PIECE }),
]

const CUT: readonly Fault[] = [
  answers('dropAfterBytes: rst, every time', BLOB, { dropAfterBytes: PIECE, how: 'rst' }),
  answers('dropAfterBytes: fin, every time', BLOB, { dropAfterBytes: PIECE, how: 'fin' }),
  answers('dropAfterBytes: cleanChunkEnd, every time', BLOB, { dropAfterBytes: PIECE, how: 'cleanChunkEnd' }),
  // A length that is not the blob's is an error before any head.
  answers(
    'dropAfterBytes: shortContentLength, every time',
    BLOB,
    { dropAfterBytes: 1000, how: 'shortContentLength' },
    NOTHING,
  ),
  answers('dropAfterBytes: no progress', BLOB, { dropAfterBytes: 0 }, NO_BODY),
]

const RANGES: readonly Fault[] = [
  continues('ignoreRange', { ignoreRange: true }),
  continues('badContentRange: none', { contentRange: 'none' }),
  continues('badContentRange: another part', {
    contentRange: ({ start, end, size }) => `bytes ${start + 1}-${end}/${size + 1}`,
  }),
  continues('badContentRange: another size', {
    contentRange: ({ start, end, size }) => `bytes ${start}-${end - 1}/${size + 5}`,
  }),
  continues('range416Open', { range416Open: true }),
  continues('starTotal', { starTotal: true }),
  continues('multipartAlways', { multipartAlways: true }),
]

const FRAMING: readonly Fault[] = [
  answers('wrongContentLength: +7', BLOB, { wrongContentLength: 7 }, NO_LENGTH),
  answers('wrongContentLength: -7', BLOB, { wrongContentLength: -7 }, NO_LENGTH),
  answers('noContentLength', {}, { framing: 'close' }),
  answers('chunked', {}, { framing: 'chunked' }),
  answers('http10Close', {}, { framing: 'http10' }),
  answers('trailers', {}, { framing: 'trailers' }),
  answers('gzipEncoding', {}, { encoding: 'gzip' }),
  answers('xGzip', {}, { encoding: 'x-gzip' }),
  answers('zstdEncoding', {}, { encoding: 'zstd' }),
  answers('infiniteBlob', BLOB, { infinite: true }, ENDLESS),
]

const WRONG: readonly Fault[] = [
  {
    name: 'corruptByteAt: once',
    section: '4.4',
    begin: (upstream, { image }) => {
      upstream.fault({ ...BLOB, ref: image.layers[0]!.digest, times: 1 }, { corrupt: 'tail' })
    },
    endings: {},
  },
  answers('corruptByteAt: always', BLOB, { corrupt: 'tail' }, NO_BODY),
  answers('swapBodies', BLOB, { swapBodies: true }, NO_BODY),
  answers('truncateButPadZeros', BLOB, { truncateButPadZeros: true }, NO_BODY),
  {
    name: 'corruptOnlyOnResume',
    section: '4.4',
    begin: (upstream) => {
      upstream.fault(BLOB, { corruptOnlyOnResume: true })
      upstream.fault({ ...BLOB, times: 1 }, { dropAfterBytes: PIECE })
    },
    endings: {},
  },
]

const STATUS: readonly Fault[] = [
  twiceForEach('flaky5xx: twice for each', { status: 502, body: 'html' }),
  answers('flaky5xx: sequence 503, 200', BLOB, { sequence: [503, 200] }),
  answers('flaky5xx: always', {}, { status: 500, body: 'html' }, NOTHING),
  answers('retryAfter503: soon', { times: 2 }, { status: 503, retryAfter: 1 }),
  answers('retryAfter503: in two minutes', {}, { status: 503, retryAfter: 120 }, NOTHING),
  answers('status999', {}, { status: 999, body: 'html' }, NOTHING),
  answers('informational: some', {}, { informational: 5 }),
  answers('informational: endless', {}, { informational: 'endless' }, NOTHING),
]

const CONNECTION: readonly Fault[] = [
  { name: 'refuse', section: '4.4', begin: (upstream) => upstream.stop(), endings: NOTHING },
  twiceForEach('connReset: twice for each', { connReset: true }),
  answers('connReset: always', {}, { connReset: true }, NOTHING),
  answers('keepAliveRace', {}, { keepAliveRace: true }),
  answers('emptyReply', {}, { emptyReply: true }, NOTHING),
  answers(
    'dnsFail',
    {},
    { status: 307, body: 'empty', headers: { location: 'http://registry.invalid/v2/' } },
    NOTHING,
  ),
  overTls('tlsBadCert', (upstream) => {
    upstream.useCertificate({ cert: OTHER_HOSTS_CERTIFICATE, key: TEST_KEY })
  }),
  overTls('tlsExpired', (upstream) => {
    upstream.useCertificate({ cert: EXPIRED_CERTIFICATE, key: TEST_KEY })
  }),
]

/** What Docker Hub says to those who ask far too often: lines without their CR. */
export const HAP429 =
  'HTTP/1.1 429 Too Many Requests\nCache-Control: no-cache\nConnection: close\nContent-Type: text/plain\n' +
  'Retry-After: 60\n\nToo Many Requests (HAP429).\n'

const MALFORMED: readonly Fault[] = [
  answers('hugeHeaders: 70 KB', {}, { hugeHeaders: 70_000 }, NOTHING),
  answers('hugeHeaders: 300 KB', {}, { hugeHeaders: 300_000 }, NOTHING),
  answers('invalidHeaderChars', {}, { spoilHead: 'invalidChars' }, NOTHING),
  answers('bareLfHeaders', {}, { spoilHead: 'bareLf' }, NOTHING),
  // A minute would be waited for in the middle of a body; nobody else has the time.
  answers('bareLfHeaders: HAP429', {}, { raw: { bytes: HAP429.replace('60', '120') } }, NOTHING),
]

export const TRANSPORT_FAULTS: readonly Fault[] = [
  ...SLOW,
  ...CUT,
  ...RANGES,
  ...FRAMING,
  ...WRONG,
  ...STATUS,
  ...CONNECTION,
  ...MALFORMED,
]
