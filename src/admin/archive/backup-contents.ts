/**
 * Reachability of local content, which says what a backup saves: what a tag, an index or a subject leads to, and what
 * was pushed by digest alone. Released content, which only waits for the garbage collector, is left out.
 */
import type { Bytes } from '../../base/units.ts'
import { isNonDistributable } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import type { LocalSnapshot } from '../../storage/metadata/audit-index.ts'
import type { ChildDescriptor } from '../../storage/metadata/metadata.ts'
import type { SavedRepository } from './format.ts'

interface SnapshotContents {
  readonly repositories: readonly SavedRepository[]
  /** Whether an index of that repository refers to the manifest. */
  readonly named: (name: RepositoryName, digest: Digest) => boolean
  /** Digest -> size of everything that is saved, manifests first. */
  readonly sizes: ReadonlyMap<Digest, Bytes>
  /** Digests that a tag or an image refers to although its repository does not hold them. */
  readonly lacking: readonly { readonly name: RepositoryName; readonly digest: Digest }[]
}

export async function contentsOf(snapshot: LocalSnapshot): Promise<SnapshotContents> {
  const repositories: SavedRepository[] = []
  const named = new Set<string>()
  const lacking: { name: RepositoryName; digest: Digest }[] = []
  for (const { name, deletedAt } of await snapshot.repositories()) {
    const { children, lacking: lacks, ...saved } = await contentsIn(snapshot, name)
    for (const child of children) named.add(`${name}@${child}`)
    for (const digest of lacks) lacking.push({ name, digest })
    repositories.push({ ...saved, ...(deletedAt === undefined ? {} : { deletedAt }) })
  }
  const sizes = new Map<Digest, Bytes>()
  for (const { manifests } of repositories) for (const it of manifests) sizes.set(it.digest, it.size)
  for (const { blobs } of repositories) for (const it of blobs) sizes.set(it.digest, it.size)
  return { repositories, named: (name, digest) => named.has(`${name}@${digest}`), sizes, lacking }
}

async function contentsIn(
  snapshot: LocalSnapshot,
  name: RepositoryName,
): Promise<
  SavedRepository & { readonly children: ReadonlySet<Digest>; readonly lacking: ReadonlySet<Digest> }
> {
  const tags = await snapshot.tags(name)
  const all = new Map((await snapshot.manifests(name)).map((it) => [it.digest, it]))
  const below = new Map<Digest, readonly ChildDescriptor[]>()
  for (const digest of all.keys()) below.set(digest, await snapshot.references(digest))
  const children = new Set<Digest>()
  for (const named of below.values()) {
    for (const { role, digest } of named) if (role === 'manifest') children.add(digest)
  }

  const kept = new Set<Digest>()
  const open: Digest[] = tags.map(({ digest }) => digest)
  for (const { digest, releasedAt, subject } of all.values()) {
    // A manifest that belongs to another is saved if that one is.
    const belongs = children.has(digest) || (subject !== undefined && all.has(subject))
    if (releasedAt === undefined && !belongs) open.push(digest)
  }
  const referrers = Map.groupBy(all.values(), ({ subject }) => subject)
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (kept.has(next) || !all.has(next)) continue
    kept.add(next)
    for (const child of below.get(next) ?? []) if (child.role === 'manifest') open.push(child.digest)
    for (const { digest } of referrers.get(next) ?? []) open.push(digest)
  }

  const links = new Map((await snapshot.links(name)).map(({ digest, size }) => [digest, size]))
  const blobs = new Map<Digest, Bytes>()
  const lacking = new Set(tags.flatMap(({ digest }) => (all.has(digest) ? [] : [digest])))
  for (const manifest of kept) {
    for (const child of below.get(manifest) ?? []) {
      const { role, digest } = child
      const held = links.get(digest)
      // BuildKit's cache is an index that lists layers where other indexes list manifests.
      if (held !== undefined) blobs.set(digest, held)
      else if (role !== 'manifest' && !isNonDistributable(child)) lacking.add(digest)
    }
    const subject = all.get(manifest)?.subject
    const size = subject === undefined ? undefined : links.get(subject)
    if (subject !== undefined && size !== undefined) blobs.set(subject, size)
  }
  return {
    name,
    tags: tags.filter(({ digest }) => kept.has(digest)),
    manifests: [...all.values()]
      .filter(({ digest }) => kept.has(digest))
      .map(({ digest, size, mediaType }) => ({ digest, size, mediaType })),
    blobs: [...blobs].map(([digest, size]) => ({ digest, size })),
    children,
    lacking,
  }
}
