/**
 * Upstreams that send us elsewhere, and where that leads.
 */
import type { CdnOptions } from '../upstream-cdn.ts'
import { TEST_CA_FILE, TEST_CERTIFICATE, TEST_KEY } from '../upstream-tls.ts'
import type { Fault } from './fault.ts'

const UNUSABLE: Fault['endings'] = { cold: ['refused'], 'in flight': ['broken', 'refused'] }

/** Blobs come from a CDN like this from now on. */
function cdn(name: string, options: CdnOptions, endings: Fault['endings'] = {}): Fault {
  return {
    name,
    section: '4.2',
    begin: (upstream) => {
      upstream.set({ cdn: options })
    },
    endings,
  }
}

export const REDIRECT_FAULTS: readonly Fault[] = [
  cdn('redirectBlobsToCdn: 301, two hops', { status: 301, hops: 2 }),
  cdn('redirectBlobsToCdn: 302, relative', { status: 302, location: 'relative' }),
  cdn('redirectBlobsToCdn: 303', { status: 303 }),
  cdn('redirectBlobsToCdn: 308, schemeRelative, ten hops', {
    status: 308,
    hops: 10,
    location: 'schemeRelative',
  }),
  cdn('redirectBlobsToCdn: eleven hops', { hops: 11 }, UNUSABLE),
  cdn('redirectBlobsToCdn: loop', { hops: 2, loop: true }, UNUSABLE),
  cdn('redirectBlobsToCdn: location garbage', { location: 'garbage' }, UNUSABLE),
  cdn('redirectBlobsToCdn: location missing', { location: 'missing' }, UNUSABLE),
  cdn('redirectBlobsToCdn: getOnlySignature', { getOnlySignature: true }),
  cdn('redirectBlobsToCdn: signed address dead on arrival', { signedUrlTtlMs: -1 }, UNUSABLE),
  cdn('redirectToPrivateIp', { location: 'privateIp' }, UNUSABLE),
  cdn('cdnNoDigestNoLength', { anonymousBodies: true }),
  {
    name: 'redirectManifests',
    section: '4.2',
    begin: (upstream) => {
      upstream.set({ redirectManifests: true, cdn: { hops: 2 } })
    },
    endings: {},
  },
  {
    name: 'expireSignedUrlDuringBody',
    section: '4.2',
    begin: (upstream) => {
      upstream.set({ cdn: { expireSignedUrlDuringBody: true } })
      upstream.fault({ kind: 'cdn' }, { dropAfterBytes: 300_000 })
    },
    endings: {},
  },
  {
    name: 'cdnError: 403xml, once for each',
    section: '4.2',
    begin: (upstream, { image }) => {
      upstream.set({ cdn: {} })
      for (const { digest } of image.blobs) {
        upstream.fault({ kind: 'cdn', ref: digest, times: 1 }, { cdnError: '403xml' })
      }
    },
    endings: {},
  },
  ...(['400xmlTwoAuth', '503SlowDown', 'html200'] as const).map((cdnError): Fault => ({
    name: `cdnError: ${cdnError}`,
    section: '4.2',
    begin: (upstream) => {
      upstream.set({ cdn: {} })
      upstream.fault({ kind: 'cdn' }, { cdnError })
    },
    endings: UNUSABLE,
  })),
  {
    name: 'crossSchemeDowngrade',
    section: '4.2',
    upstream: { tls: { cert: TEST_CERTIFICATE, key: TEST_KEY } },
    settings: { ca: TEST_CA_FILE },
    begin: (upstream) => {
      upstream.set({ cdn: { location: 'crossSchemeDowngrade' } })
    },
    endings: UNUSABLE,
  },
]
