/**
 * Manifests as the simulated registry answers for them, and the oddities of real ones.
 *
 * What is odd here is a trait of a registry, on all its good days; what goes wrong on a bad one is a rule.
 */
import { digestOf } from '../../src/oci/digest.ts'
import { image, schema1, type Content, type Image } from './images.ts'
import { sendContent } from './upstream-body.ts'
import type { Holdings } from './upstream-content.ts'
import { sendError, writeHead, type Call, type HeaderMap } from './upstream-send.ts'

export interface ManifestOptions {
  /** How HEAD is answered, while GET is fine. Default `ok`. */
  headMode?: 'ok' | '405' | '401' | '403' | '404' | 'noLength' | 'noDigest' | 'hang' | undefined
  /** No `Docker-Content-Digest` in answers to that method. */
  noDigestHeader?: 'get' | 'head' | 'both' | undefined
  /** `Docker-Content-Digest` is that of other bytes. */
  wrongDigestHeader?: boolean | undefined
  /** `Docker-Content-Digest` is the sha512 of the same bytes. */
  otherAlgoHeader?: boolean | undefined
  /** Default `exact`. */
  contentTypeMode?: 'exact' | 'charset' | 'octet' | 'json' | 'textPlain' | 'missing' | undefined
  weakEtag?: boolean | undefined
  noEtag?: boolean | undefined
  /** 304 for whoever brings the `ETag`. */
  etag304?: boolean | undefined
  /** 404 when the type of what a tag names is not listed in `Accept`; wildcards do not count. */
  acceptStrict?: boolean | undefined
  /** Another manifest instead: what Quay makes of it, or the child for amd64, as distribution does. */
  acceptConverts?: 'schema1' | 'amd64Child' | undefined
  /**
   * `REPO:TAG` of which two backends hold one image each: they take turns, and each knows the digest of its own
   * only. What lies below is found by both.
   */
  tagFlapping?: Readonly<Record<string, readonly [Image, Image]>> | undefined
}

export class ManifestEndpoint {
  readonly #holdings: Holdings
  #turn = 0

  constructor(holdings: Holdings) {
    this.#holdings = holdings
  }

  async answer(call: Call, repo: string, reference: string, options: ManifestOptions): Promise<void> {
    const isHead = call.entry.method === 'HEAD'
    const { headMode = 'ok' } = options
    if (isHead && headMode === 'hang') return
    if (isHead && /^4\d\d$/.test(headMode)) {
      sendError(call, Number(headMode), HEAD_CODES[headMode] ?? 'UNKNOWN')
      return
    }
    const held = this.#find(repo, reference, options)
    const manifest = held && this.#acceptable(repo, reference, held, call, options)
    if (manifest === undefined) {
      sendError(call, 404, 'MANIFEST_UNKNOWN')
      return
    }
    const etag = etagOf(manifest, options)
    if (options.etag304 === true && etag !== undefined && call.entry.headers['if-none-match'] === etag) {
      writeHead(call, 304, { etag })
      call.response.end()
      return
    }
    const sent: Call =
      isHead && headMode === 'noLength'
        ? { ...call, behaviour: { noContentLength: true, ...call.behaviour } }
        : call
    await sendContent(sent, manifest.bytes, headersOf(manifest, isHead, options))
  }

  #find(repo: string, reference: string, { tagFlapping = {} }: ManifestOptions): Content | undefined {
    for (const [name, backends] of Object.entries(tagFlapping)) {
      const [flapping, tag] = name.split(':')
      if (flapping !== repo) continue
      if (reference !== tag && !backends.some(({ manifest }) => manifest.digest === reference)) continue
      const { manifest } = backends[this.#turn % 2 === 0 ? 0 : 1]
      this.#turn += 1
      return reference === tag || reference === manifest.digest ? manifest : undefined
    }
    return this.#holdings.manifest(repo, reference)
  }

  /** What is sent for `held`: itself, or as the registry reads `Accept`. By digest nothing is negotiated. */
  #acceptable(
    repo: string,
    reference: string,
    held: Content,
    call: Call,
    { acceptStrict, acceptConverts }: ManifestOptions,
  ): Content | undefined {
    const accepted = (call.entry.headers.accept ?? '').split(',').map((it) => it.split(';')[0]?.trim())
    if (reference.includes(':') || accepted.includes(held.mediaType)) return held
    if (acceptStrict === true) return undefined
    if (acceptConverts === 'schema1') return schema1({ tag: reference })
    if (acceptConverts !== 'amd64Child') return held
    const { manifests = [] } = JSON.parse(held.bytes.toString()) as {
      manifests?: { digest: string; platform?: { architecture: string } }[]
    }
    const child = manifests.find(({ platform }) => platform?.architecture === 'amd64')
    return child === undefined ? held : this.#holdings.manifest(repo, child.digest)
  }
}

const HEAD_CODES: Readonly<Record<string, string>> = {
  '401': 'UNAUTHORIZED',
  '403': 'DENIED',
  '404': 'MANIFEST_UNKNOWN',
  '405': 'UNSUPPORTED',
}

const ANOTHER = image({ layers: [1], seed: 'another manifest' }).manifest

function headersOf(manifest: Content, isHead: boolean, options: ManifestOptions): HeaderMap {
  return {
    'content-type': contentTypeOf(manifest, options),
    'docker-content-digest': digestHeaderOf(manifest, isHead, options),
    etag: etagOf(manifest, options),
  }
}

function digestHeaderOf(manifest: Content, isHead: boolean, options: ManifestOptions): string | undefined {
  const { noDigestHeader, wrongDigestHeader, otherAlgoHeader, headMode } = options
  if (noDigestHeader === 'both' || noDigestHeader === (isHead ? 'head' : 'get')) return undefined
  if (isHead && headMode === 'noDigest') return undefined
  if (wrongDigestHeader === true) return ANOTHER.digest
  return otherAlgoHeader === true ? digestOf(manifest.bytes, 'sha512') : manifest.digest
}

function contentTypeOf(
  { mediaType }: Content,
  { contentTypeMode = 'exact' }: ManifestOptions,
): string | undefined {
  return {
    exact: mediaType,
    charset: `${mediaType}; charset=utf-8`,
    octet: 'application/octet-stream',
    json: 'application/json',
    textPlain: 'text/plain; charset=utf-8',
    missing: undefined,
  }[contentTypeMode]
}

function etagOf({ digest }: Content, { weakEtag, noEtag }: ManifestOptions): string | undefined {
  if (noEtag === true) return undefined
  return `${weakEtag === true ? 'W/' : ''}"${digest}"`
}
