/**
 * Decoder of bodies that come with a `Content-Encoding` although the request asked for none.
 *
 * A digest is of the bytes as the registry holds them, but some proxies in front of one compress every body. The
 * decoded response has neither `Content-Encoding` nor a length, which is unknown. A 206 stays encoded, since a part
 * of an encoded body cannot be decoded.
 */
import { pipeline, type Transform } from 'node:stream'
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib'
import type { Body } from './response-body.ts'
import { headerOf, type Response, type ResponseHeaders } from './transport.ts'
import { UpstreamError } from '../upstream.ts'

const DECODERS: Readonly<Record<string, () => Transform>> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
  zstd: createZstdDecompress,
}

/** @returns the decoded response; the same one where it is not encoded, or cannot be decoded */
export function decoded(key: string, response: Response, hasBody: boolean): Response {
  const coding = codingOf(response.headers)
  if (coding === undefined || response.status === 206) return response
  const decoder = DECODERS[coding]
  if (decoder === undefined) return response
  const { 'content-encoding': _coding, 'content-length': _length, ...headers } = response.headers
  const body = hasBody ? new DecodedBody(key, response, decoder()) : response.body
  return { ...response, headers, body }
}

/** Undefined for none. Several codings at once have no decoder, like an unknown one. */
function codingOf(headers: ResponseHeaders): string | undefined {
  const coding = headerOf(headers, 'content-encoding')?.trim().toLowerCase() ?? ''
  return coding === '' || coding === 'identity' ? undefined : coding
}

class DecodedBody implements Body {
  readonly #key: string
  readonly #response: Response
  readonly #decoder: Transform
  #begun = false

  constructor(key: string, response: Response, decoder: Transform) {
    this.#key = key
    this.#response = response
    this.#decoder = decoder
  }

  cancel(): void {
    this.#response.body.cancel()
    if (this.#begun) this.#decoder.destroy()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<readonly Buffer[], void, undefined> {
    this.#begun = true
    let failure: unknown
    // The loop below throws the error; the callback keeps it from being an unhandled one.
    pipeline(chunksOf(this.#response.body), this.#decoder, (error) => {
      failure = error
    })
    try {
      for await (const chunk of this.#decoder) yield [chunk as Buffer]
    } catch (error) {
      throw this.#asUpstreams(failure ?? error)
    } finally {
      this.cancel()
    }
  }

  /** An error of zlib means that the upstream's answer makes no sense. */
  #asUpstreams(error: unknown): unknown {
    const code = (error as { code?: unknown }).code
    if (error instanceof UpstreamError || typeof code !== 'string') return error
    const message = `${this.#response.url.host} sent what cannot be decoded`
    return new UpstreamError('broken', this.#key, message, { cause: error })
  }
}

async function* chunksOf(body: Body): AsyncGenerator<Buffer, void, undefined> {
  for await (const batch of body) yield* batch
}
