/**
 * Verification of names: manifests and tags in the index against the manifests' own bytes.
 *
 * A collection goes by the index alone: a row that is missing there is a blob that goes missing later.
 */
import { isNonDistributable, MAX_MANIFEST_BYTES, type Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { parseManifest, type ManifestContent } from '../../oci/manifest.ts'
import { readAll } from '../files/read-all.ts'
import type { HeldManifest } from '../metadata/audit-index.ts'
import { LOCAL, type ChildDescriptor, type RepositoryKey } from '../metadata/metadata.ts'
import { pullName, usesOf, type Finding, type Outcome } from './findings.ts'
import { failed, type VerifyTools } from './verify-blobs.ts'
import { lockOfBlob, lockOfRepository } from '../locks/keyed-locks.ts'

const PAGE = 200

const NONE = { uses: [], moreUses: 0 }

/** @param skip digests that were found damaged already: no more can be told of them */
export async function* verifyManifests(
  tools: VerifyTools,
  skip: ReadonlySet<Digest>,
): AsyncGenerator<Finding, void, undefined> {
  for (let last: HeldManifest | undefined; ;) {
    const page = await tools.metadata.audit.manifests({ last, limit: PAGE })
    for (const held of page) {
      tools.signal.throwIfAborted()
      if (skip.has(held.digest)) continue
      yield* verifyManifest(tools, held)
    }
    last = page.at(-1)
    if (page.length < PAGE) return
  }
}

async function* verifyManifest(
  tools: VerifyTools,
  held: HeldManifest,
): AsyncGenerator<Finding, void, undefined> {
  const { repository, digest } = held
  const wrong = await confirmed(
    tools,
    repository,
    digest,
    async () => {
      const manifest = await readManifest(tools, digest, held.mediaType)
      // A client has deleted it meanwhile.
      if (manifest === undefined) return undefined
      const problem = await disagreement(tools, held, manifest)
      return problem === undefined ? undefined : { problem, manifest }
    },
    async ({ manifest: { content, size } }) => {
      if (content === undefined) return { remains: true }
      await tools.metadata.transaction((tx) => tx.putManifest(repository, digest, size, content, tools.now()))
      const remains = (await disagreement(tools, held, { content, size })) !== undefined
      return { repair: 'written down again', remains }
    },
  )
  if (wrong !== undefined) {
    yield {
      kind: 'manifest',
      wrong: true,
      origin: repository.registry === LOCAL ? 'pushed' : 'mirrored',
      subject: digest,
      detail: `${wrong.found.problem} (${pullName(repository)})`,
      ...(await usesOf(tools.metadata.audit, digest)),
      ...wrong.outcome,
    }
  }
  if (repository.registry === LOCAL) yield* verifyChildren(tools, held)
}

interface ReadManifest {
  readonly size: number
  /** undefined: it is no manifest. */
  readonly content: ManifestContent | undefined
}

async function readManifest(
  { store }: VerifyTools,
  digest: Digest,
  mediaType: string,
): Promise<ReadManifest | undefined> {
  await using reader = await store.open(digest)
  if (reader === undefined) return undefined
  const { size } = reader
  if (size > MAX_MANIFEST_BYTES) return { size, content: undefined }
  const bytes = await readAll(reader, size)
  if (bytes === undefined) return undefined
  try {
    return { size, content: parseManifest(bytes, mediaType) }
  } catch (error) {
    if (!(error instanceof OciError)) throw error
    return { size, content: undefined }
  }
}

async function disagreement(
  { metadata }: VerifyTools,
  held: HeldManifest,
  { content, size }: ReadManifest,
): Promise<string | undefined> {
  if (content === undefined) return 'its bytes are no manifest'
  const listed = await metadata.audit.references(held.digest)
  const named = [
    ...(content.config === undefined ? [] : [textOf('config', content.config)]),
    ...content.layers.map((it) => textOf('layer', it)),
    ...content.manifests.map((it) => textOf('manifest', it)),
  ]
  const known = new Set(listed.map((it) => textOf(it.role, it)))
  const unlisted = named.filter((it) => !known.has(it)).length
  if (unlisted > 0) return `it names ${unlisted} that the index does not list`
  if (listed.length !== named.length) return 'the index lists what it does not name'
  if (held.subject !== content.subject?.digest) return 'the index has another subject for it'
  return held.size === size ? undefined : 'the index has another size for it'
}

function textOf(role: ChildDescriptor['role'], { digest, size }: Descriptor): string {
  return `${role} ${digest} ${size}`
}

/** Everything that a pushed manifest references has to be in its repository. */
async function* verifyChildren(
  tools: VerifyTools,
  held: HeldManifest,
): AsyncGenerator<Finding, void, undefined> {
  const { store, metadata, disk, now, signal } = tools
  const index = metadata.audit
  const { repository, digest } = held
  const seen = new Set<Digest>()
  for (const child of await index.lacking(repository, digest)) {
    if (seen.has(child.digest)) continue
    seen.add(child.digest)
    const wrong = child.role !== 'manifest'
    if (wrong && isNonDistributable(child)) continue
    const lacks = async (): Promise<true | undefined> => {
      const now = await index.lacking(repository, digest)
      return now.some((it) => it.digest === child.digest) ? true : undefined
    }
    const found = await confirmed(tools, repository, child.digest, lacks, async () => {
      if (!wrong) return { remains: false }
      const blob = await store.stat(child.digest)
      const sound =
        blob !== undefined &&
        blob.size === child.size &&
        (await disk.check(child.digest, { signal, resting: false })).is === 'sound'
      if (!sound) return { remains: true }
      await metadata.transaction((tx) => tx.linkBlob(repository, child.digest, blob.size, now()))
      return { repair: 'its bytes are here: linked again', remains: false }
    })
    if (found === undefined) continue
    yield {
      kind: wrong ? 'incomplete' : 'child',
      wrong,
      origin: 'pushed',
      subject: digest,
      detail: `${child.role} ${child.digest} is not in ${repository.name}`,
      ...(await usesOf(index, digest)),
      ...(wrong ? found.outcome : { remains: false }),
    }
  }
}

export async function* verifyTags(tools: VerifyTools): AsyncGenerator<Finding, void, undefined> {
  const { metadata, now, signal, disk } = tools
  for await (const { repository, tag, digest, mediaType } of metadata.audit.danglingTags()) {
    signal.throwIfAborted()
    const dangles = async (): Promise<true | undefined> => {
      const record = await metadata.tags.get(repository, tag)
      if (record?.digest !== digest || record.deletedAt !== undefined) return undefined
      return (await metadata.manifests.get(repository, digest)) === undefined ? true : undefined
    }
    const found = await confirmed(tools, repository, digest, dangles, async () => {
      const sound = (await disk.check(digest, { signal, resting: false })).is === 'sound'
      const manifest = sound ? await readManifest(tools, digest, mediaType) : undefined
      if (manifest?.content === undefined) return { remains: true }
      const { size, content } = manifest
      await metadata.transaction((tx) => tx.putManifest(repository, digest, size, content, now()))
      return { repair: 'its bytes are here: written down again', remains: false }
    })
    if (found === undefined) continue
    yield {
      kind: 'tag',
      wrong: true,
      origin: 'pushed',
      subject: `${repository.name}:${tag}`,
      detail: `it names ${digest}, which is not in ${repository.name}`,
      ...NONE,
      ...found.outcome,
    }
  }
}

/**
 * A finding counts only when it is made twice: in passing, and again under the locks that its writers take.
 *
 * @param find undefined when there is nothing wrong
 */
async function confirmed<F>(
  tools: VerifyTools,
  repository: RepositoryKey,
  digest: Digest,
  find: () => Promise<F | undefined>,
  mend: (found: F) => Promise<Outcome>,
): Promise<{ readonly found: F; readonly outcome: Outcome } | undefined> {
  const { locks, signal, repair } = tools
  if ((await find()) === undefined) return undefined
  // The lock order of a push.
  using held = new DisposableStack()
  if (repository.registry === LOCAL)
    held.use(await locks.exclusive(lockOfRepository(repository.name), signal))
  held.use(await locks.exclusive(lockOfBlob(digest), signal))
  const found = await find()
  if (found === undefined) return undefined
  if (!repair) return { found, outcome: { remains: true } }
  return { found, outcome: await mend(found).catch((error: unknown) => failed(error, signal)) }
}
