/**
 * Upstream's failures in the words of our own clients.
 *
 * DESIGN "Freshness": a quick honest error, never a 404 for "cannot say" - a client that believes an image
 * does not exist stops asking, one that gets 503 goes to its next registry.
 */
import { OciError } from '../oci/errors.ts'
import { UpstreamError } from '../upstream/upstream.ts'

/** As long as a failure is remembered. */
const DEFAULT_RETRY_AFTER_SECONDS = 10

/** An UpstreamError becomes what the client is told; anything else comes back as it is. */
export function refusal(error: unknown): unknown {
  if (!(error instanceof UpstreamError)) return error
  const facts = { upstream: error.upstream }
  switch (error.failure) {
    case 'denied':
      return new OciError('DENIED', facts, {
        message: `${error.upstream} denied access to the repository`,
        cause: error,
      })
    case 'busy':
    case 'broken':
    case 'unreachable': {
      const why = {
        busy: 'limits our requests',
        broken: 'answers with errors',
        unreachable: 'cannot be reached',
      }[error.failure]
      return new OciError('UNAVAILABLE', facts, {
        message: `${error.upstream} ${why}, and this is not cached`,
        retryAfterSeconds:
          error.retryAfterMs === undefined ? DEFAULT_RETRY_AFTER_SECONDS : error.retryAfterMs / 1000,
        cause: error,
      })
    }
  }
}

/** For a digest whose bytes were wrong every time they were asked for. */
export function corruptRefusal(upstream: string, retryAfterMs: number): OciError {
  return new OciError(
    'BAD_GATEWAY',
    { upstream },
    {
      message: `${upstream} keeps sending bytes that are not this digest`,
      retryAfterSeconds: retryAfterMs / 1000,
    },
  )
}
