/** Findings of a verification, in plain JSON: they may have come from another process. */
import type { Bytes } from '../../base/units.ts'
import { LOCAL, type ReferenceIndex, type RepositoryKey } from '../metadata/metadata.ts'
import type { KnownBlob } from '../metadata/audit-index.ts'
import type { Digest } from '../../oci/digest.ts'

/**
 * - `database`: the index itself is damaged; nothing else is looked at then
 * - `corrupt`: a file does not have the digest that is its name
 * - `missing`: the index names a file that is not there
 * - `unreadable`: a file that cannot be read
 * - `size`: a sound file whose size the index has wrong, or does not know
 * - `manifest`: the index says something else of a manifest than its bytes
 * - `incomplete`: a pushed manifest names a blob that its repository does not hold
 * - `tag`: a pushed tag names a manifest that its repository does not hold
 *
 * and, which is no fault:
 * - `orphan`: a file that the index has never heard of; a collection removes it, in its time
 * - `foreign`: a file among the blobs that cannot be one
 * - `child`: a pushed index names a manifest that was not pushed, as it may
 * - `partial`: files of uploads and downloads that may still be continued
 * - `quarantine`: a file that an earlier repair put aside
 * - `recovered`: an image that the index did not know, and that was rebuilt from its files
 */
export type FindingKind =
  | 'database'
  | 'corrupt'
  | 'missing'
  | 'unreadable'
  | 'size'
  | 'manifest'
  | 'incomplete'
  | 'tag'
  | 'orphan'
  | 'foreign'
  | 'child'
  | 'partial'
  | 'quarantine'
  | 'recovered'

export interface Finding {
  readonly kind: FindingKind
  /** false: a remark, no fault. */
  readonly wrong: boolean
  readonly origin: 'pushed' | 'mirrored' | 'both' | 'nobody'
  /** A digest, a path below the root, or a name with its tag. */
  readonly subject: string
  readonly detail: string
  /** Some of the affected images, as they are pulled: `team/app:1`, `docker.io/library/nginx@sha256:…`. */
  readonly uses: readonly string[]
  readonly moreUses: number
  /** How it was repaired, for the operator. */
  readonly repair?: string
  /** The fault is still there. */
  readonly remains: boolean
}

export interface Progress {
  readonly blobs: number
  readonly totalBlobs: number
  readonly bytes: Bytes
  readonly totalBytes: Bytes
}

export type VerifyEvent =
  | { readonly progress: Progress }
  | { readonly finding: Finding }
  | { readonly checked: { readonly blobs: number; readonly bytes: Bytes } }

export interface Outcome {
  readonly repair?: string
  readonly remains: boolean
}

const MOST_USES = 50

/** Enough for an index of indexes of images, the deepest that is in use. */
const MOST_STEPS = 4

export function originOf(known: Pick<KnownBlob, 'pushed' | 'mirrored'> | undefined): Finding['origin'] {
  if (known?.pushed === true) return known.mirrored ? 'both' : 'pushed'
  return known?.mirrored === true ? 'mirrored' : 'nobody'
}

export function pullName({ registry, name }: RepositoryKey): string {
  return registry === LOCAL ? name : `${registry}/${name}`
}

/** The images that cannot be pulled, or not whole, without that digest. */
export async function usesOf(
  index: Pick<ReferenceIndex, 'taggedManifests' | 'linkedIn'>,
  digest: Digest,
): Promise<Pick<Finding, 'uses' | 'moreUses'>> {
  const tagged = new Set<string>()
  const untagged = new Map<string, string>()
  const seen = new Set<string>()
  let open = new Set([digest])
  for (let step = 0; step < MOST_STEPS && open.size > 0; step++) {
    const above = new Set<Digest>()
    for (const below of open) {
      for (const { repository, manifest, tags } of await index.taggedManifests(below, 1)) {
        const name = pullName(repository)
        const key = `${name}@${manifest}`
        if (seen.has(key)) continue
        seen.add(key)
        for (const tag of tags) tagged.add(`${name}:${tag}`)
        if (tags.length === 0) untagged.set(key, name)
        if (manifest !== below) above.add(manifest)
      }
    }
    open = above
  }
  const named = new Set([...tagged].map((it) => it.slice(0, it.lastIndexOf(':'))))
  const all = [...tagged]
  // An untagged child is affected together with the tagged index that references it.
  for (const [key, name] of untagged) {
    if (!named.has(name)) all.push(key)
  }
  for (const name of untagged.values()) named.add(name)
  for (const repository of await index.linkedIn(digest)) {
    if (!named.has(pullName(repository))) all.push(pullName(repository))
  }
  all.sort()
  return { uses: all.slice(0, MOST_USES), moreUses: Math.max(0, all.length - MOST_USES) }
}
