import { test } from 'tap'
import { digestOf } from '../../src/oci/digest.ts'
import { lookAtRest } from '../support/at-rest.ts'
import { travel, type Answered, type Journey } from '../support/profiles/journey.ts'
import { PROFILES, type ProfileName } from '../support/profiles/start.ts'

/** Situation -> what the client gets | what the registry is asked. `8 ×` is a whole image: 3 manifests, 5 blobs. */
type Table = Readonly<Record<string, string>>

/** Tokens, and blobs from elsewhere. */
const USUAL: Table = {
  cold: '8 × 200 miss | manifest GET 4, token GET 1, blob GET 5, cdn GET 5',
  again: '8 × 200 hit | nothing',
  revalidated: '8 × 200 hit | manifest HEAD 1',
  'HEAD of a tag': '200 miss | manifest HEAD 1',
  // Where blobs are kept addresses are signed for GET: a byte is asked for instead. What nothing here names may be a
  // manifest.
  'HEAD of a blob': '200 miss | blob HEAD 1, blob GET 1, cdn GET 1, manifest HEAD 1',
  tags: '200 miss, 200 hit | tags GET 1',
  referrers: '200 miss | referrers GET 1',
  'missing tag': '404 MANIFEST_UNKNOWN | manifest GET 1',
  'missing blob': '404 BLOB_UNKNOWN | blob GET 1',
  'missing repository': '404 NAME_UNKNOWN | manifest GET 2, token GET 1',
  moved: '7 × 200 miss, 200 hit | manifest HEAD 1, manifest GET 3, blob GET 4, cdn GET 4',
  deleted: '404 MANIFEST_UNKNOWN | manifest HEAD 1, manifest GET 1',
  // Nobody asks the registry again without a token.
  'wrong credentials, cached': '200 stale warned, 7 × 200 hit | manifest HEAD 1, token GET 1',
  'wrong credentials, cold': '403 DENIED | manifest GET 1, token GET 1',
  'right credentials, private': '3 × 200 miss | manifest GET 2, token GET 1, blob GET 2, cdn GET 2',
}

/** Nothing of the kind. */
const OPEN: Table = {
  ...USUAL,
  cold: '8 × 200 miss | manifest GET 3, blob GET 5',
  'HEAD of a blob': '200 miss | blob HEAD 1, manifest HEAD 1',
  'missing repository': '404 MANIFEST_UNKNOWN | manifest GET 1',
  moved: '7 × 200 miss, 200 hit | manifest HEAD 1, manifest GET 3, blob GET 4',
  'wrong credentials, cached': '8 × 200 hit | manifest HEAD 1',
  'wrong credentials, cold': '200 miss | manifest GET 1',
  'right credentials, private': '200 hit, 2 × 200 miss | manifest HEAD 1, blob GET 2',
}

const EXPECTED: Readonly<Record<ProfileName, Table>> = {
  dockerHub: { ...USUAL, referrers: '404 NOT_FOUND | referrers GET 1' },
  quay: {
    ...USUAL,
    'HEAD of a blob': '200 miss | blob HEAD 1, manifest HEAD 1',
    // It does not say whether the token was to blame, nor whether it was too young: it is tried again, and then another.
    'missing repository': '403 DENIED | manifest GET 4, token GET 2',
  },
  gcr: {
    ...USUAL,
    cold: '8 × 200 miss | manifest GET 4, ping GET 1, token GET 1, blob GET 5, cdn GET 5',
    // The ping has told where tokens are to be had.
    'missing repository': '403 DENIED | manifest GET 1, token GET 1',
    'wrong credentials, cached': '200 stale warned, 7 × 200 hit | manifest HEAD 1, ping GET 1, token GET 1',
    'wrong credentials, cold': '403 DENIED | manifest GET 1, token GET 1',
    'right credentials, private':
      '3 × 200 miss | manifest GET 2, ping GET 1, token GET 1, blob GET 2, cdn GET 2',
  },
  ghcr: {
    ...USUAL,
    referrers: '404 NOT_FOUND | referrers GET 1, other GET 1',
    'missing repository': '403 DENIED | manifest GET 1, token GET 1',
  },
  ecrPublic: {
    ...USUAL,
    // Once; from then on a byte is asked for at once.
    'HEAD of a blob': '200 miss | blob HEAD 3, token GET 1, blob GET 2, cdn GET 1, manifest HEAD 1',
    'missing repository': '404 MANIFEST_UNKNOWN | manifest GET 2',
  },
  k8s: {
    // Everything is asked for twice: here, and where this sends us.
    cold: '8 × 200 miss | manifest GET 6, blob GET 10, cdn GET 5',
    again: '8 × 200 hit | nothing',
    revalidated: '8 × 200 hit | manifest HEAD 2',
    'HEAD of a tag': '200 miss | manifest HEAD 2',
    'HEAD of a blob': '200 miss | blob HEAD 1, blob GET 2, manifest HEAD 2, cdn GET 1',
    tags: '200 miss, 200 hit | tags GET 2',
    referrers: '200 miss | referrers GET 2',
    'missing tag': '404 MANIFEST_UNKNOWN | manifest GET 2',
    'missing blob': '404 BLOB_UNKNOWN | blob GET 2',
    'missing repository': '404 MANIFEST_UNKNOWN | manifest GET 2',
    moved: '7 × 200 miss, 200 hit | manifest HEAD 2, manifest GET 6, blob GET 8, cdn GET 4',
    deleted: '404 MANIFEST_UNKNOWN | manifest HEAD 2, manifest GET 2',
    'wrong credentials, cached': '8 × 200 hit | manifest HEAD 2',
    'wrong credentials, cold': '200 miss | manifest GET 2',
    'right credentials, private': '200 hit, 2 × 200 miss | manifest HEAD 2, blob GET 4, cdn GET 2',
  },
  mcr: {
    ...OPEN,
    cold: '8 × 200 miss | manifest GET 3, blob GET 5, cdn GET 5',
    'HEAD of a blob': '200 miss | blob HEAD 1, blob GET 1, cdn GET 1, manifest HEAD 1',
    moved: '7 × 200 miss, 200 hit | manifest HEAD 1, manifest GET 3, blob GET 4, cdn GET 4',
    'right credentials, private': '200 hit, 2 × 200 miss | manifest HEAD 1, blob GET 2, cdn GET 2',
  },
  ecrPrivate: {
    ...USUAL,
    cold: '8 × 200 miss | manifest GET 4, blob GET 5, cdn GET 5',
    'missing repository': '404 MANIFEST_UNKNOWN | manifest GET 1',
    // A HEAD has no words: whether the account is to blame is told by the ping.
    'wrong credentials, cached':
      '200 stale warned, 7 × 200 hit | manifest HEAD 2, ping GET 1, manifest GET 1',
    // That they are wrong is known by now, but might have changed.
    'wrong credentials, cold': '403 DENIED | manifest GET 1',
    'right credentials, private': '3 × 200 miss | manifest GET 2, blob GET 2, cdn GET 2',
  },
  acr: USUAL,
  harbor: {
    ...USUAL,
    cold: '8 × 200 miss | manifest GET 4, token GET 1, blob GET 5',
    'HEAD of a blob': '200 miss | blob HEAD 1, manifest HEAD 1',
    moved: '7 × 200 miss, 200 hit | manifest HEAD 1, manifest GET 3, blob GET 4',
    'right credentials, private': '3 × 200 miss | manifest GET 2, token GET 1, blob GET 2',
  },
  plainDistribution: { ...OPEN, referrers: '404 NOT_FOUND | referrers GET 1' },
  nexus: {
    ...OPEN,
    // HEAD of a manifest is of no use here, and is left out.
    'HEAD of a blob': '200 miss | blob HEAD 1',
    cold: '8 × 200 miss | manifest GET 4, blob GET 5',
    // HEAD tells no digest here, which is found out once.
    revalidated: '200 miss, 7 × 200 hit | manifest HEAD 1, manifest GET 1',
    'HEAD of a tag': '200 miss | manifest GET 1',
    moved: '7 × 200 miss, 200 hit | manifest GET 3, blob GET 4',
    deleted: '404 MANIFEST_UNKNOWN | manifest GET 1',
    referrers: '404 NOT_FOUND | referrers GET 1',
    'wrong credentials, cached': '200 stale warned, 7 × 200 hit | manifest HEAD 2, manifest GET 1',
    'wrong credentials, cold': '403 DENIED | manifest GET 1',
    'right credentials, private': '3 × 200 miss | manifest GET 2, blob GET 2',
  },
}

/** What an answer of ours may say; whatever else an upstream says stays with us. */
const HEADS = new Set([
  'accept-ranges',
  'connection',
  'content-length',
  'content-type',
  'date',
  'docker-content-digest',
  'docker-distribution-api-version',
  'etag',
  'keep-alive',
  'link',
  'oci-filters-applied',
  'retry-after',
  'warning',
  'x-cache',
  'x-request-id',
])

const lines: string[] = []

for (const name of Object.keys(PROFILES) as ProfileName[]) {
  test(`${name}: an image is pulled cold, revalidated, moved, missing and with wrong credentials`, async (t) => {
    const journey = await travel(t, name)
    const found: Record<string, string> = {}
    for (const { situation, client, upstream } of journey.rows) {
      found[situation] = `${client} | ${upstream === '' ? 'nothing' : upstream}`
      lines.push([name.padEnd(18), situation.padEnd(28), found[situation]].join('| '))
    }
    // Whoever asks for a page while the list is being written down joins that; it costs upstream nothing either.
    found['tags'] = found['tags']?.replace('200 join', '200 hit') ?? ''
    t.strictSame(found, EXPECTED[name], 'the table holds')
    t.strictSame(
      journey.answers.flatMap((answered) => faultsOf(answered, journey)),
      [],
      'answers are right and ours',
    )
    t.strictSame(strangersTold(journey), [], 'credentials and tokens went only where they may')
    t.strictSame(atRest(journey), { faults: [], missing: [], twice: [] }, 'all is stored, and crossed once')
  })
}

test('the table of all registries', (t) => {
  for (const line of lines) t.comment(line)
  t.end()
})

/** What is wrong with an answer, in sentences. */
function faultsOf({ method, pulled, wanted }: Answered, { running }: Journey): string[] {
  const { status, headers, body, broken } = pulled
  const ports = running.all.flatMap(({ url, authUrl, cdnUrl }) =>
    [url, authUrl, cdnUrl].map((it) => new URL(it).host),
  )
  const faults = Object.entries(headers).flatMap(([name, value]) => [
    ...(HEADS.has(name) ? [] : [`the head ${name} is not ours`]),
    ...(ports.some((host) => String(value).includes(host))
      ? [`${name} names an upstream: ${String(value)}`]
      : []),
  ])
  if (broken !== undefined) faults.push(`broken off: ${broken.message}`)
  if (status >= 300 && status < 400) faults.push('a redirect reached the client')
  const { link } = headers
  if (link !== undefined && !/^<\/v2\/[^>]*>; rel="next"$/.test(String(link)))
    faults.push(`Link: ${String(link)}`)
  if (wanted === undefined || status !== 200) return faults
  const expected = {
    'content-type':
      wanted.mediaType.includes('manifest') || wanted.mediaType.includes('index')
        ? wanted.mediaType
        : 'application/octet-stream',
    'content-length': String(wanted.bytes.length),
    'docker-content-digest': wanted.digest,
    etag: `"${wanted.digest}"`,
  }
  for (const [name, value] of Object.entries(expected)) {
    if (headers[name] !== value) faults.push(`${name} is ${String(headers[name])}, not ${value}`)
  }
  if (method === 'GET' && digestOf(body) !== wanted.digest) faults.push(`wrong bytes for ${wanted.digest}`)
  return faults
}

/** Who saw what was not meant for them. */
function strangersTold({ running, log }: Journey): string[] {
  const { options } = running.profile
  const scheme = (authorization: string): string => authorization.split(' ')[0] ?? ''
  const seen = log.flatMap(({ listener, headers }) =>
    headers.authorization === undefined ? [] : [`${scheme(headers.authorization)} at ${listener}`],
  )
  const allowed = new Set([
    ...(options.token === undefined ? [] : ['Basic at auth', 'Bearer at registry']),
    ...(options.basic === undefined ? [] : ['Basic at registry']),
  ])
  return [...new Set(seen)].filter((it) => !allowed.has(it))
}

function atRest({ contents, root, log }: Journey): { faults: unknown; missing: unknown; twice: unknown } {
  const { faults, blobs } = lookAtRest(root, new Map(contents.map((it) => [it.digest, it])))
  const sent = (digest: string): number =>
    log
      .filter(
        ({ kind, ref, status }) => (kind === 'cdn' || kind === 'blob') && ref === digest && status === 200,
      )
      .reduce((sum, { bytesSent }) => sum + bytesSent, 0)
  return {
    faults,
    missing: contents.filter(({ digest }) => !blobs.has(digest)).map(({ digest }) => digest),
    twice: contents.filter((it) => sent(it.digest) > it.bytes.length).map(({ digest }) => digest),
  }
}
