/**
 * The last answers of upstreams to questions that are not about content: lists of tags, lists of referrers, and
 * "there is none" (the durable half of the negative cache).
 *
 * An answer belongs to a mirrored repository and goes with it; one about a manifest goes with that manifest. The
 * writer bounds the weight of all answers, which counts in the budget of the mirror.
 */
import type { Bytes } from '../../base/units.ts'
import type { Digest } from '../../oci/digest.ts'
import type { Tag } from '../../oci/reference.ts'
import type { EpochMs, RepositoryKey } from './metadata.ts'

/** A question, and the key under which its answer is kept. */
export type UpstreamQuestion = 'tags' | `referrers ${Digest}` | `tag ${Tag}`

export const TAG_LIST: UpstreamQuestion = 'tags'

export function referrersQuestion(subject: Digest): UpstreamQuestion {
  return `referrers ${subject}`
}

/** Only the answer "there is no such tag" is kept under it. What a tag names is in the tag itself. */
export function tagQuestion(tag: Tag): UpstreamQuestion {
  return `tag ${tag}`
}

export interface UpstreamAnswer {
  /** When the body came. It tells one body from the next of the same question. */
  readonly storedAt: EpochMs
  /** When upstream last said so. */
  readonly checkedAt: EpochMs
  /** Undefined: upstream says that there is no such thing. */
  readonly bodySize: Bytes | undefined
  /** Upstream is asked with it whether the body is still the same. */
  readonly etag: string | undefined
}

export interface UpstreamAnswerIndex {
  get(repository: RepositoryKey, question: UpstreamQuestion): Promise<UpstreamAnswer | undefined>
  /** The body as it was stored; undefined without an answer, or when it says that there is none. */
  body(repository: RepositoryKey, question: UpstreamQuestion): Promise<Buffer | undefined>
  /** The weight of all answers, keys included. */
  weight(): Promise<Bytes>
}

/** The weight of a row beside its body: its key stands in four places. */
const ROW_WEIGHT: Bytes = 512

/** The weight of an answer in the index, about. */
export function answerWeight({ body }: NewUpstreamAnswer): Bytes {
  return (body?.length ?? 0) + ROW_WEIGHT
}

export interface NewUpstreamAnswer {
  /** Undefined: upstream has no such thing. */
  readonly body?: Buffer | undefined
  readonly etag?: string | undefined
  /** The manifest that it is about: the answer goes with it. */
  readonly subject?: Digest | undefined
}
