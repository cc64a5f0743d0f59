/** Why a stored image stays or will be evicted: pushed, pinned, in use, or by when it was last pulled. */
import { pins } from '../../cache/eviction/pins.ts'
import type { Digest } from '../../oci/digest.ts'
import { isDigestReference, type Reference } from '../../oci/reference.ts'
import type { InventoryIndex } from '../../storage/metadata/inventory-index.ts'
import { LOCAL, type RepositoryKey } from '../../storage/metadata/metadata.ts'
import type { ImageExplained, KeepingExplained } from './explanation.ts'
import { spanText } from '../../base/format.ts'

interface KeepingOptions {
  readonly inventory: Pick<InventoryIndex, 'blobs' | 'taggedManifests' | 'colder'>
  /** Globs over full names. */
  readonly pin: readonly string[]
  readonly inUse: (digest: Digest) => boolean
}

/** The most referencing names of a manifest that are compared with the pins. */
const MOST_NAMES = 500

/** An image may be in an index, and that in another one. */
const MOST_STEPS = 2

const MOST_COUNTED = 1000

/** @returns undefined when nothing of it is here */
export async function keepingOf(
  { inventory, pin, inUse }: KeepingOptions,
  repository: RepositoryKey,
  image: ImageExplained,
  reference: Reference,
): Promise<KeepingExplained | undefined> {
  const [known] = await inventory.blobs([image.digest])
  if (known === undefined) return undefined
  const pushed = known.pushed || repository.registry === LOCAL
  const using = inUse(image.digest) || image.parts.some((part) => part.inUse === true)
  const pinnedBy = pushed ? [] : await pinsOf(inventory, pin, repository, image.digest, reference)
  const kept = { pushed, pinnedBy, inUse: using }
  if (pushed) return { ...kept, sentence: 'it was pushed: never evicted' }
  const [first] = pinnedBy
  if (first !== undefined) {
    return { ...kept, sentence: `${first.glob} of \`cache.pin\` matches ${first.name}: never evicted` }
  }
  const idle = image.pulledMsAgo ?? 0
  const colder = await inventory.colder(known.pulledAt, MOST_COUNTED)
  const many =
    colder === MOST_COUNTED ? `${colder} blobs or more` : colder === 1 ? '1 blob' : `${colder} blobs`
  const place =
    colder === 0 ? 'nothing was pulled longer ago' : `${many} were pulled longer ago, and would go first`
  const now = using ? '; in use at the moment, and not evicted meanwhile' : ''
  return { ...kept, colder, sentence: `may be evicted: last pulled ${spanText(idle)} ago; ${place}${now}` }
}

/** The names that pins are matched against: `registry/name:tag` for a tag, `registry/name@digest` for a digest. */
async function pinsOf(
  inventory: Pick<InventoryIndex, 'taggedManifests'>,
  pin: readonly string[],
  { registry, name }: RepositoryKey,
  digest: Digest,
  reference: Reference,
): Promise<KeepingExplained['pinnedBy']> {
  if (pin.length === 0) return []
  const asked = `${registry}/${name}${isDigestReference(reference) ? '@' : ':'}${reference}`
  const names = new Set<string>([asked])
  for (const { repository, manifest, tags } of await inventory.taggedManifests(
    digest,
    MOST_STEPS,
    MOST_NAMES,
  )) {
    const listed = `${repository.registry}/${repository.name}`
    for (const tag of tags) names.add(`${listed}:${tag}`)
    names.add(`${listed}@${manifest}`)
  }
  return [...names].flatMap((it) => {
    const glob = pin.find((one) => pins(one, it))
    return glob === undefined ? [] : [{ glob, name: it }]
  })
}
