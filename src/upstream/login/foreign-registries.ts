/**
 * Anonymous login to registries that an upstream redirects to and that send a challenge themselves: a vanity name
 * stands for another registry, and docker and containerd follow it.
 *
 * Their challenge is answered without credentials: the operator configured those for the upstream alone. A failure of
 * their token service is one of that request, and not of the upstream's token service.
 */
import type { Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Metrics } from '../../telemetry/metrics.ts'
import { Authorization } from './authorization.ts'
import { discardBody } from '../transport/response-body.ts'
import { bearerOf, parseChallenges } from './challenge.ts'
import { Account } from './credentials.ts'
import type { Answer } from '../transport/redirects.ts'
import type { TokenService } from './token-service.ts'
import { TokenCache } from './token-cache.ts'
import type { Response } from '../transport/transport.ts'
import { UpstreamError } from '../upstream.ts'

const API = '/v2/'

interface ForeignOptions {
  readonly key: string
  readonly metrics: Metrics
  readonly service: Pick<TokenService, 'ask'>
  readonly timeoutMs: Milliseconds
  readonly now: () => Milliseconds
  readonly ping: (url: URL, signal: AbortSignal) => Promise<Answer>
}

export class ForeignRegistries {
  readonly #options: ForeignOptions
  readonly #anonymous: Account
  /** Origin -> its authorization. */
  readonly #authorizations = new LRUCache<string, Authorization>({ maxSize: 50, sizeCalculation: () => 1 })

  constructor(options: ForeignOptions) {
    const { key, metrics } = options
    this.#options = options
    this.#anonymous = new Account({ key, source: undefined, metrics })
  }

  /**
   * Answers the challenge (401) of a response; any other response is returned unchanged.
   *
   * @param send repeats the request, with that `Authorization`
   * @throws UpstreamError `denied` where the token does not help
   */
  async answered(
    response: Response,
    signal: AbortSignal,
    send: (authorization: string) => Promise<Response>,
  ): Promise<Response> {
    const { status, headers, url } = response
    const challenged = status === 401 && bearerOf(parseChallenges(headers['www-authenticate'])) !== undefined
    if (!challenged) return response
    const { key } = this.#options
    const ask = async (authorization: string | undefined): Promise<Answer> => {
      if (authorization !== undefined) discardBody(response.body)
      const said = authorization === undefined ? response : await send(authorization)
      return { ...said, hops: 0, elsewhere: false }
    }
    try {
      return await this.#of(url.origin).run(nameIn(url), signal, ask)
    } catch (error) {
      if (!(error instanceof UpstreamError) || error.failure === 'denied') throw error
      const { message, retryAfterMs } = error
      throw new UpstreamError('broken', key, message, {
        ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
        cause: error,
      })
    }
  }

  close(): void {
    this.#anonymous.close()
  }

  #of(origin: string): Authorization {
    const known = this.#authorizations.get(origin)
    if (known !== undefined) return known
    const { ping } = this.#options
    const account = this.#anonymous
    const authorization = new Authorization({
      ...this.#options,
      account,
      tokens: new TokenCache({ ...this.#options, account, upstream: new URL(origin) }),
      ping: (_authorization, signal) => ping(new URL('/v2/', origin), signal),
    })
    this.#authorizations.set(origin, authorization)
    return authorization
  }
}

/** The part of a path that follows the name of a repository. */
const RESOURCE = /\/(?:manifests|blobs|referrers|tags)\/[^/]+$/

/** The repository's name there. The path, which may be as long as a header, is scanned only twice. */
function nameIn({ pathname }: URL): string {
  const end = RESOURCE.exec(pathname)?.index ?? -1
  const before = pathname.indexOf(API)
  const name = before < 0 ? '' : pathname.slice(before + API.length, Math.max(end, 0))
  return name === '' ? pathname : name
}
