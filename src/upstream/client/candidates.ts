/**
 * An upstream that is asked through others (its accounts, its fallbacks): every request of the distribution
 * specification becomes one question, and whoever extends this decides which candidates it is put to, in which order,
 * until one answers.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { Reference, RepositoryName } from '../../oci/reference.ts'
import type { UpstreamStatus } from '../status.ts'
import type {
  BlobRequest,
  ReferrersPage,
  TagPage,
  Upstream,
  UpstreamBlob,
  UpstreamError,
  UpstreamHead,
  UpstreamManifest,
} from '../upstream.ts'

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
  /** Docker Hub counts it. */
  readonly isPull?: boolean
  /** Its answer is one page of a list. */
  readonly isList?: boolean
  /** The blob whose bytes are asked for. */
  readonly digest?: Digest
  /** As in {@link BlobRequest}. */
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

  headManifest(name: RepositoryName, reference: Reference, signal: AbortSignal): Promise<UpstreamHead> {
    return this.ask<UpstreamHead>({
      ...{ name, signal },
      ask: ({ upstream }, limit) => upstream.headManifest(name, reference, limit),
      findingOf: ({ result }) => FINDINGS[result],
    })
  }

  manifest(
    name: RepositoryName,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<UpstreamManifest | undefined> {
    return this.ask({
      ...{ name, signal, findingOf, isPull: true },
      ask: ({ upstream }, limit) => upstream.manifest(name, reference, limit),
    })
  }

  headBlob(
    name: RepositoryName,
    digest: Digest,
    signal: AbortSignal,
  ): Promise<{ size: Bytes | undefined } | undefined> {
    return this.ask({
      ...{ name, signal, findingOf },
      ask: ({ upstream }, limit) => upstream.headBlob(name, digest, limit),
    })
  }

  blob(name: RepositoryName, digest: Digest, request: BlobRequest): Promise<UpstreamBlob | undefined> {
    return this.ask({
      ...{ name, signal: request.signal, findingOf },
      ask: ({ upstream }, signal) => upstream.blob(name, digest, { ...request, signal }),
    })
  }

  tags(
    name: RepositoryName,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<TagPage | undefined> {
    return this.ask({
      ...{ name, signal, findingOf, isList: true },
      ask: ({ upstream }, limit) => upstream.tags(name, query, limit, etag),
    })
  }

  referrers(
    name: RepositoryName,
    subject: Digest,
    query: URLSearchParams,
    signal: AbortSignal,
    etag?: string,
  ): Promise<ReferrersPage | undefined> {
    return this.ask({
      ...{ name, signal, isList: true },
      ask: ({ upstream }, limit) => upstream.referrers(name, subject, query, limit, etag),
      // "None" may be the registry's word on what it can do, and not on what there is.
      findingOf: (answer) => (answer === undefined ? 'doubtful' : 'found'),
    })
  }
}

const FINDINGS = { present: 'found', absent: 'absent', unusable: 'doubtful' } as const

export function findingOf(answer: unknown): Finding {
  return answer === undefined ? 'absent' : 'found'
}
