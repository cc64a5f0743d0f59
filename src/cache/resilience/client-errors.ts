/**
 * Maps upstream's failures to the errors that clients see.
 *
 * docs/architecture.md "Freshness": a quick honest error, never a 404 for "cannot say" - a client that believes an
 * image does not exist stops asking, one that gets 503 goes to its next registry.
 */
import type { Milliseconds } from '../../base/units.ts'
import { OciError } from '../../oci/errors.ts'
import { outOfFiles } from '../../base/open-files.ts'
import type { RepositoryIndex } from '../../storage/metadata/metadata.ts'
import { UpstreamError } from '../../upstream/upstream.ts'
import { repositoryKey, type MirrorRef } from '../origin.ts'

/** Equals the time for which a failure is remembered. */
const DEFAULT_RETRY_AFTER_SECONDS = 10
const UNKNOWN_REPOSITORY_MS: Milliseconds = 10_000

/**
 * Like {@link refusal}, for a question about that repository. A denial may be Docker Hub's way of saying "no such
 * repository", unless something of it was served before.
 */
export async function refusalOf(
  error: unknown,
  repository: MirrorRef,
  repositories: RepositoryIndex,
): Promise<unknown> {
  if (error instanceof UpstreamError && error.insufficientScope) {
    const known = await repositories.get(repositoryKey(repository))
    if (known?.servedAt === undefined) {
      repository.origin.state.absent.remember(UNKNOWN_REPOSITORY_MS, 'repository', repository.name)
      return nameUnknown(repository, error)
    }
  }
  return refusal(error)
}

/** @param staleWarning why upstream has not confirmed it */
export function nameUnknown(repository: MirrorRef, cause?: unknown, staleWarning?: string): OciError {
  return new OciError(
    'NAME_UNKNOWN',
    { name: repository.name },
    { cause, ...(staleWarning === undefined ? {} : { staleWarning }) },
  )
}

/** Maps an UpstreamError; any other error is returned as it is. */
export function refusal(error: unknown): unknown {
  if (!(error instanceof UpstreamError)) return error
  if (error.outOfFiles) return outOfFiles(error)
  const facts = { upstream: error.upstream }
  if (error.wrongContent) {
    return new OciError('BAD_GATEWAY', facts, {
      message: `${error.upstream} sent something else than what was asked for`,
      retryAfterSeconds: DEFAULT_RETRY_AFTER_SECONDS,
      cause: error,
    })
  }
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
        unreachable: error.offline ? 'is offline by configuration' : 'cannot be reached',
      }[error.failure]
      return new OciError('UNAVAILABLE', facts, {
        message: `${error.upstream} ${error.byProxy ? 'is kept from us by a proxy' : why}, and this is not cached`,
        retryAfterSeconds:
          error.retryAfterMs === undefined ? DEFAULT_RETRY_AFTER_SECONDS : error.retryAfterMs / 1000,
        cause: error,
      })
    }
  }
}

/** For a digest whose bytes were wrong at every attempt. */
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
