/**
 * How much of an upstream's lists is here, for `explain`: the tags of a repository, and the referrers of a manifest.
 *
 * It asks no upstream.
 */
import { ATTESTATION_TTL_MS, isAttestation } from '../../cache/prefetch/attestation.ts'
import { manifestsIn } from '../../cache/lists/list-pages.ts'
import { repositoryKey, type MirrorRef } from '../../cache/origin.ts'
import type { Digest } from '../../oci/digest.ts'
import type { EpochMs, MetadataStore } from '../../storage/metadata/metadata.ts'
import {
  referrersQuestion,
  TAG_LIST,
  type UpstreamQuestion,
} from '../../storage/metadata/upstream-answer-index.ts'
import { confirmed, type ListExplained, type ListsExplained } from './explanation.ts'
import { spanText } from '../../base/format.ts'

interface ListsHereOptions {
  readonly metadata: Pick<MetadataStore, 'upstreamAnswers' | 'tags' | 'manifests'>
  readonly negativeTtlMs: number
  readonly now: () => EpochMs
}

/** Further tags are not counted. */
const MOST_TAGS = 10_000
/** The most referrers of a list that are looked up here. */
const MOST_LOOKS = 256

/** @param manifest undefined: none is here */
export async function listsHere(
  options: ListsHereOptions,
  mirrored: MirrorRef,
  manifest: Digest | undefined,
): Promise<ListsExplained> {
  const { metadata } = options
  const { origin } = mirrored
  const { key } = origin.upstream
  const repository = repositoryKey(mirrored)
  const count = (body: Buffer): number => (JSON.parse(body.toString()) as unknown[]).length
  const tags = await listHere(options, mirrored, TAG_LIST, origin.tagTtlMs, count)
  const heldTags = (await metadata.tags.held(repository, MOST_TAGS)).length
  const ofTags = tagsSentence(key, tags, heldTags)
  if (manifest === undefined) return { ...(tags && { tags }), sentences: [ofTags] }

  let listed: readonly Digest[] = []
  const named = await metadata.manifests.descriptor(repository, manifest)
  const ttlMs = isAttestation(named) ? ATTESTATION_TTL_MS : origin.tagTtlMs
  const referrers = await listHere(options, mirrored, referrersQuestion(manifest), ttlMs, (body) => {
    listed = (manifestsIn(body) ?? []).map(({ digest }) => digest)
    return listed.length
  })
  let held = 0
  for (const digest of listed.slice(0, MOST_LOOKS)) {
    if ((await metadata.manifests.get(repository, digest)) !== undefined) held += 1
  }
  if (referrers === undefined) held = (await metadata.manifests.referrers(repository, manifest)).length
  return {
    ...(tags && { tags }),
    ...(referrers && { referrers: { ...referrers, held } }),
    sentences: [ofTags, referrersSentence(key, referrers, held)],
  }
}

async function listHere(
  { metadata, negativeTtlMs, now }: ListsHereOptions,
  mirrored: MirrorRef,
  question: UpstreamQuestion,
  ttlMs: number,
  count: (body: Buffer) => number,
): Promise<ListExplained | undefined> {
  const repository = repositoryKey(mirrored)
  const answer = await metadata.upstreamAnswers.get(repository, question)
  if (answer === undefined) return undefined
  const body = await metadata.upstreamAnswers.body(repository, question)
  const believedMs = body === undefined && ttlMs !== ATTESTATION_TTL_MS ? negativeTtlMs : ttlMs
  return {
    ...(body === undefined ? {} : { count: count(body) }),
    ...confirmed(now() - answer.checkedAt, believedMs),
  }
}

function tagsSentence(key: string, tags: ListExplained | undefined, held: number): string {
  if (tags === undefined) {
    const here = held === 0 ? 'and no tag is here' : `${many(held, 'tag')} would be listed if it cannot say`
    return `${key} was never asked for the list of tags; ${here}`
  }
  const { count } = tags
  return count === undefined
    ? `${key} has no list of tags: ${asOf(tags)}`
    : `${many(count, 'tag')} in the list: ${asOf(tags)}`
}

function referrersSentence(key: string, referrers: ListExplained | undefined, held: number): string {
  if (referrers === undefined)
    return `${key} was never asked what refers to it; ${many(held, 'referrer')} here`
  const { count } = referrers
  if (count === undefined) return `${key} has no list of referrers: ${asOf(referrers)}`
  if (count === 0) return `nothing refers to it: ${asOf(referrers)}`
  return `${many(count, 'referrer')}, ${held} of them here: ${asOf(referrers)}`
}

function asOf({ checkedMsAgo, freshForMs }: ListExplained): string {
  const said = `said ${spanText(checkedMsAgo)} ago`
  return freshForMs === undefined
    ? `${said}, to be asked again`
    : `${said}, believed for another ${spanText(freshForMs)}`
}

function many(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
