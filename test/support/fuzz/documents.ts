/**
 * Manifests, indexes and lists as nobody should write them.
 */
import { MEDIA_TYPES } from '../../../src/oci/descriptor.ts'
import { digestOf } from '../../../src/oci/digest.ts'
import type { Random } from './random.ts'

/** What requests and answers name, so that sometimes it is the right one. */
export const BODIES: readonly Buffer[] = ['', '{}', 'a layer', 'x'.repeat(5000)].map((it) => Buffer.from(it))

const DIGESTS: readonly string[] = BODIES.map((it) => digestOf(it))

const ODD_DIGESTS = [
  'sha256:',
  'sha256:00',
  `sha256:${'A'.repeat(64)}`,
  `sha512:${'a'.repeat(64)}`,
  `sha512:${'a'.repeat(128)}`,
  `md5:${'0'.repeat(32)}`,
  `sha256:${'0'.repeat(64)}/../x`,
  'x',
  '',
  ':',
]

export function digest(random: Random): string {
  return random.chance(0.6) ? random.pick(DIGESTS) : random.pick(ODD_DIGESTS)
}

const TYPES = [
  ...Object.values(MEDIA_TYPES),
  'text/html',
  '',
  'a/b; charset=x',
  'application/json',
  'x'.repeat(3000),
]

export function mediaType(random: Random): string {
  return random.pick(TYPES)
}

/** A value where another is expected. */
function oddValue(random: Random): unknown {
  return random.pick<unknown>([
    null,
    true,
    -1,
    1e308,
    0.5,
    2 ** 53,
    '',
    'x'.repeat(5000),
    [],
    {},
    [[]],
    '__proto__',
    '\u0000',
    '\ud800',
    '\u202e',
  ])
}

function maybe(random: Random, usual: unknown): unknown {
  return random.chance(0.1) ? oddValue(random) : usual
}

function descriptor(random: Random): unknown {
  return maybe(random, {
    mediaType: maybe(random, mediaType(random)),
    digest: maybe(random, digest(random)),
    size: maybe(random, random.pick([0, 2, 7, 5000, 1, 2 ** 40])),
    ...(random.chance(0.1)
      ? { urls: maybe(random, ['http://169.254.169.254/x', 'file:///etc/passwd']) }
      : {}),
    ...(random.chance(0.1) ? { annotations: maybe(random, { a: 'b', ['__proto__']: 'c' }) } : {}),
    ...(random.chance(0.1)
      ? { platform: maybe(random, { os: 'linux', architecture: oddValue(random) }) }
      : {}),
  })
}

function some(random: Random, most: number): unknown[] {
  return Array.from({ length: random.below(most) }, () => descriptor(random))
}

/** Of a manifest or an index. */
export function manifestDocument(random: Random): Buffer {
  if (random.chance(0.1)) {
    return random.pick([
      ...BODIES,
      Buffer.from('['.repeat(2000)),
      Buffer.from('{"a":'.repeat(500)),
      Buffer.from(`{"layers":[${'[],'.repeat(3000)}[]]}`),
      Buffer.from([0xef, 0xbb, 0xbf, 0x7b, 0x7d]),
      Buffer.from([0x7b, 0xff, 0xfe, 0x7d]),
      random.bytes(200),
    ])
  }
  const document = {
    schemaVersion: maybe(random, random.pick([2, 1, 3])),
    mediaType: maybe(random, mediaType(random)),
    config: maybe(random, descriptor(random)),
    ...(random.chance(0.7) ? { layers: maybe(random, some(random, 5)) } : {}),
    ...(random.chance(0.4) ? { manifests: maybe(random, some(random, 5)) } : {}),
    ...(random.chance(0.3) ? { subject: descriptor(random) } : {}),
    ...(random.chance(0.2) ? { artifactType: oddValue(random) } : {}),
    ...(random.chance(0.2) ? { annotations: oddValue(random) } : {}),
  }
  const text = JSON.stringify(document)
  return Buffer.from(random.chance(0.1) ? text.slice(0, random.below(text.length)) : text)
}

/** Of tags, of a catalog, of referrers or of a token: whoever reads it expects another. */
export function listDocument(random: Random): Buffer {
  const text = JSON.stringify(
    random.pick<unknown>([
      { name: 'x', tags: maybe(random, ['1', '.odd', '', 'x'.repeat(300), oddValue(random)]) },
      { repositories: maybe(random, ['a', '../b', oddValue(random)]) },
      { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: maybe(random, some(random, 5)) },
      { token: maybe(random, 'abc'), expires_in: maybe(random, random.pick([-1, 0, 60, 1e300])) },
      { access_token: maybe(random, 'a\r\nb'), issued_at: maybe(random, 'yesterday') },
      { errors: maybe(random, [{ code: maybe(random, 'DENIED'), message: maybe(random, 'no\u001b[2J') }]) },
      oddValue(random),
    ]),
  )
  return Buffer.from(random.chance(0.1) ? text.slice(0, random.below(text.length)) : text)
}
