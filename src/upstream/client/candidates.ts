/**
 * Base of an upstream that has several candidates for an answer (its accounts, its fallbacks): every request of the
 * distribution specification becomes one question, and the subclass asks candidates in its order until one answers.
 */
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { UpstreamStatus } from '../status.ts'
import type { Upstream, UpstreamError, UpstreamHead } from '../upstream.ts'

type Arguments<Method extends 'headManifest' | 'manifest' | 'headBlob' | 'blob' | 'tags' | 'referrers'> =
  Parameters<Upstream[Method]>

interface Candidate {
  readonly upstream: Upstream
}

/** `doubtful`: the answer shows neither that the content is there nor that it is not. */
type Finding = 'found' | 'absent' | 'doubtful'

export interface Question<T, C extends Candidate = Candidate> {
  readonly name: RepositoryName
  readonly signal: AbortSignal
  readonly ask: (candidate: C, signal: AbortSignal) => Promise<T>
  readonly findingOf: (answer: T) => Finding
  /** Docker Hub counts the request. */
  readonly isPull?: boolean
  /** The answer is one page of a list. */
  readonly isList?: boolean
  readonly digest?: Digest
  /** See {@link BlobRequest}. */
  readonly parallel?: boolean | undefined
}

export abstract class CandidateUpstream<C extends Candidate> implements Upstream {
  readonly key: string

  constructor(key: string) {
    this.key = key
  }

  protected abstract ask<T>(question: Question<T, C>): Promise<T>
  abstract status(): UpstreamStatus
  abstract quotaBelow(reserve: number): UpstreamError | undefined
  abstract close(): Promise<void>

  headManifest(...[name, reference, signal]: Arguments<'headManifest'>): Promise<UpstreamHead> {
    return this.ask<UpstreamHead>({
      ...{ name, signal },
      ask: ({ upstream }, limit) => upstream.headManifest(name, reference, limit),
      findingOf: ({ result }) => FINDINGS[result],
    })
  }

  manifest(...[name, reference, signal]: Arguments<'manifest'>): ReturnType<Upstream['manifest']> {
    return this.ask({
      ...{ name, signal, findingOf, isPull: true },
      ask: ({ upstream }, limit) => upstream.manifest(name, reference, limit),
    })
  }

  headBlob(...[name, digest, signal]: Arguments<'headBlob'>): ReturnType<Upstream['headBlob']> {
    return this.ask({
      ...{ name, signal, findingOf },
      ask: ({ upstream }, limit) => upstream.headBlob(name, digest, limit),
    })
  }

  blob(...[name, digest, request]: Arguments<'blob'>): ReturnType<Upstream['blob']> {
    return this.ask({
      ...{ name, signal: request.signal, findingOf },
      ask: ({ upstream }, signal) => upstream.blob(name, digest, { ...request, signal }),
    })
  }

  tags(...[name, query, signal, etag]: Arguments<'tags'>): ReturnType<Upstream['tags']> {
    return this.ask({
      ...{ name, signal, findingOf, isList: true },
      ask: ({ upstream }, limit) => upstream.tags(name, query, limit, etag),
    })
  }

  referrers(
    ...[name, subject, query, signal, etag]: Arguments<'referrers'>
  ): ReturnType<Upstream['referrers']> {
    return this.ask({
      ...{ name, signal, isList: true },
      ask: ({ upstream }, limit) => upstream.referrers(name, subject, query, limit, etag),
      // "None" may mean that the registry has no such API, and not that there are none.
      findingOf: (answer) => (answer === undefined ? 'doubtful' : 'found'),
    })
  }
}

const FINDINGS = { present: 'found', absent: 'absent', unusable: 'doubtful' } as const

export function findingOf(answer: unknown): Finding {
  return answer === undefined ? 'absent' : 'found'
}
