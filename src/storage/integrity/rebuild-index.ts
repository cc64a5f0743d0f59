/**
 * Rebuild of an index that was lost, from what the manifests on the disk tell.
 *
 * Each manifest that the index does not know and whose blobs are all here becomes, with what it references and its
 * referrers, the repository `recovered/<algorithm>-<hex>` with the tag `latest`: no file tells what it was called,
 * nor whether it was pushed or mirrored. Other files are recorded as orphans: a collection frees them after their
 * grace period. No other process may use the folder meanwhile.
 */
import type { Bytes } from '../../base/units.ts'
import { isNonDistributable, MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import { algorithmOf, digestOf, hexOf, type Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { parseManifest, type ManifestContent } from '../../oci/manifest.ts'
import { parseRepositoryName, parseTag } from '../../oci/reference.ts'
import type { BlobStore } from '../blobs/blob-store.ts'
import { readAll } from '../files/read-all.ts'
import { LOCAL, type EpochMs, type MetadataStore } from '../metadata/metadata.ts'
import type { Finding } from './findings.ts'

interface RebuildTools {
  readonly store: BlobStore
  readonly metadata: MetadataStore
  readonly now: () => EpochMs
  readonly signal: AbortSignal
}

/** A manifest as the rebuild keeps it: only its references, for there may be many. */
interface Found {
  readonly blobs: readonly Digest[]
  readonly children: readonly Digest[]
  readonly subject: Digest | undefined
}

const TAG = parseTag('latest')

/** Files that are recorded in one commit. */
const BATCH = 500

export async function* rebuild(tools: RebuildTools): AsyncGenerator<Finding, void, undefined> {
  const { signal } = tools
  const whole = await wholeOnes(tools)
  const children = new Set([...whole.values()].flatMap((it) => it.children))
  const referrers = new Map<Digest, Digest[]>()
  for (const [digest, { subject }] of whole) {
    if (subject === undefined || !whole.has(subject)) continue
    referrers.set(subject, [...(referrers.get(subject) ?? []), digest])
  }
  for (const [digest, { subject }] of whole) {
    signal.throwIfAborted()
    if (children.has(digest) || (subject !== undefined && whole.has(subject))) continue
    yield await recover(tools, whole, referrers, digest)
  }
  let rest = { files: 0, bytes: 0 }
  for await (const some of inBatches(unknownFiles(tools))) {
    for (const { size } of some) rest = { files: rest.files + 1, bytes: rest.bytes + size }
    await writeDown(tools, some)
  }
  if (rest.files > 0) {
    const detail = `${rest.bytes} bytes that belong to no whole image; a collection removes them after push.gcGrace`
    yield { ...finding('orphan', `${rest.files} files`), detail }
  }
}

function finding(kind: Finding['kind'], subject: string): Omit<Finding, 'detail'> {
  return { kind, subject, wrong: false, origin: 'nobody', uses: [], moreUses: 0, remains: false }
}

async function* unknownFiles({
  metadata,
  store,
  signal,
}: RebuildTools): AsyncGenerator<{ readonly digest: Digest; readonly size: Bytes }> {
  for await (const { digest, size } of store.list()) {
    signal.throwIfAborted()
    if ((await metadata.audit.digest(digest)) === undefined) yield { digest, size }
  }
}

/** Manifests that the index does not know, and of which all blobs are here. */
async function wholeOnes(tools: RebuildTools): Promise<Map<Digest, Found>> {
  const { store } = tools
  const found = new Map<Digest, Found>()
  for await (const { digest, size } of unknownFiles(tools)) {
    const read = await readManifest(tools, digest, size)
    if (read === undefined) continue
    const { content } = read
    const blobs = [...(content.config ? [content.config] : []), ...content.layers]
    found.set(digest, {
      blobs: [...new Set(blobs.filter((it) => !isNonDistributable(it)).map((it) => it.digest))],
      children: [...new Set(content.manifests.map((it) => it.digest))],
      subject: content.subject?.digest,
    })
  }
  const whole = new Map<Digest, Found>()
  const indexes = new Map<Digest, Found>()
  for (const [digest, it] of found) {
    if (it.children.length > 0) indexes.set(digest, it)
    else if (await areHere(store, it.blobs)) whole.set(digest, it)
  }
  // An index may reference images that were never here; and it may reference indexes.
  for (let before = -1; before < whole.size;) {
    before = whole.size
    for (const [digest, it] of indexes) {
      if (whole.has(digest) || !(await areHere(store, it.blobs))) continue
      // A child that is no manifest is a blob: build caches are pushed like that.
      const here: Digest[] = []
      for (const child of it.children) {
        if (whole.has(child) || (!found.has(child) && (await store.stat(child)) !== undefined))
          here.push(child)
      }
      if (here.length > 0) whole.set(digest, it)
    }
  }
  return whole
}

async function areHere(store: BlobStore, digests: readonly Digest[]): Promise<boolean> {
  for (const digest of digests) if ((await store.stat(digest)) === undefined) return false
  return true
}

/** Recovers a manifest with all below it, and the referrers of these. */
async function recover(
  tools: RebuildTools,
  whole: ReadonlyMap<Digest, Found>,
  referrers: ReadonlyMap<Digest, readonly Digest[]>,
  root: Digest,
): Promise<Finding> {
  const { store, metadata, now } = tools
  const name = parseRepositoryName(`recovered/${algorithmOf(root)}-${hexOf(root)}`)
  const key = { registry: LOCAL, name }
  const manifests = new Set<Digest>([root])
  const blobs = new Map<Digest, Bytes>()
  for (const digest of manifests) {
    const it = whole.get(digest)
    for (const named of [...(it?.blobs ?? []), ...(it?.children ?? [])]) {
      if (whole.has(named)) manifests.add(named)
      else {
        const file = await store.stat(named)
        if (file !== undefined) blobs.set(named, file.size)
      }
    }
    for (const referrer of referrers.get(digest) ?? []) manifests.add(referrer)
  }
  let tagged: ManifestContent | undefined
  await metadata.transaction((tx) => {
    tx.putRepository(key, now())
    for (const [digest, size] of blobs) tx.linkBlob(key, digest, size, now())
  })
  for (const digest of manifests) {
    const size = (await store.stat(digest))?.size ?? 0
    const read = await readManifest(tools, digest, size)
    if (read === undefined) continue
    const { content } = read
    if (digest === root) tagged = content
    await metadata.transaction((tx) => {
      tx.putManifest(key, digest, size, content, now())
      if (digest !== root) return
      const mediaType = content.mediaType
      tx.putTag(key, { tag: TAG, digest, size, mediaType, checkedAt: now(), deletedAt: undefined })
    })
  }
  const images = manifests.size === 1 ? '' : ` with ${manifests.size - 1} other manifests`
  const detail = `${tagged?.mediaType ?? 'a manifest'}${images}, ${blobs.size} blobs`
  return { ...finding('recovered', `${name}:${TAG}`), origin: 'pushed', detail }
}

async function writeDown(
  { metadata, now }: RebuildTools,
  files: readonly { readonly digest: Digest; readonly size: Bytes }[],
): Promise<void> {
  await metadata.transaction((tx) => {
    for (const { digest, size } of files) tx.recordBlob(digest, size, now())
  })
}

/** @returns undefined for a file that is no manifest, or has another digest than its name */
async function readManifest(
  { store }: RebuildTools,
  digest: Digest,
  size: Bytes,
): Promise<{ readonly content: ManifestContent } | undefined> {
  if (size < 2 || size > MAX_MANIFEST_BYTES) return undefined
  await using reader = await store.open(digest)
  if (reader === undefined) return undefined
  const head = Buffer.alloc(Math.min(size, 64))
  if (head.toString('latin1', 0, await reader.read(head, 0)).trimStart()[0] !== '{') return undefined
  const bytes = await readAll(reader, size)
  if (bytes === undefined || digestOf(bytes, algorithmOf(digest)) !== digest) return undefined
  try {
    const content = parseManifest(bytes)
    return isManifest(bytes, content) ? { content } : undefined
  } catch (error) {
    if (error instanceof OciError) return undefined
    throw error
  }
}

/** Configurations, attestations and the like are JSON as well. */
function isManifest(bytes: Buffer, content: ManifestContent): boolean {
  const { config, layers, manifests, subject, kind } = content
  if (![config, ...layers, ...manifests, subject].some((it) => it !== undefined)) return false
  const { schemaVersion } = JSON.parse(bytes.toString()) as { schemaVersion?: unknown }
  return kind !== 'unknown' || schemaVersion === 2
}

async function* inBatches<T>(all: AsyncIterable<T>): AsyncGenerator<T[]> {
  let some: T[] = []
  for await (const it of all) {
    some.push(it)
    if (some.length < BATCH) continue
    yield some
    some = []
  }
  if (some.length > 0) yield some
}
