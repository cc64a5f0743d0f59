/**
 * Explains a name without a pull: which rule takes it, what of it is here, and what a pull would do now.
 *
 * It asks no upstream and changes no state: not the index, not the cache, not the order of eviction. Of a name whose
 * pulls are refused it tells only the reason.
 */
import type { ManifestCache } from '../../cache/manifests/manifest-cache.ts'
import type { PullFacts } from '../../cache/manifests/pull-plan.ts'
import { repositoryKey, type MirrorRef } from '../../cache/origin.ts'
import { OCI_ERRORS, OciError } from '../../oci/errors.ts'
import { matchesAny } from '../../oci/glob.ts'
import { isDigestReference, type ImageReference, type Reference, type Tag } from '../../oci/reference.ts'
import { LOCAL, type MetadataStore, type RepositoryKey } from '../../storage/metadata/metadata.ts'
import {
  confirmed,
  type Explanation,
  type Forecast,
  type ImageExplained,
  type KeepingExplained,
  type RouteExplained,
  type TagExplained,
} from './explanation.ts'
import { forecast } from './forecast.ts'
import { ImageStatus, type ImageHereOptions } from './image-status.ts'
import { listsHere } from './list-status.ts'
import { keepingOf } from './kept-because.ts'
import { refusing, type Destination, type NameRegistry, type UpstreamEntry } from '../../registry/registry.ts'
import { explainUpstream, silenceOf, type Silence } from './upstream-text.ts'

interface ExplainerOptions extends ImageHereOptions {
  readonly manifests: Pick<ManifestCache, 'tags'>
  readonly registry: Pick<NameRegistry, 'route'>
  readonly metadata: MetadataStore
  readonly settings: () => {
    /** Globs of names that are always local. */
    readonly local: readonly string[]
    /** Globs over full names that are never evicted. */
    readonly pin: readonly string[]
    readonly negativeTtlMs: number
  }
  /** A server runs and asks upstreams; without one their status is unknown. */
  readonly serving: boolean
}

const NUMBERS = { ns: 1, local: 2, prefix: 3, existing: 4, default: 5 } as const

export class Explainer {
  readonly #options: ExplainerOptions
  readonly #here: ImageStatus

  constructor(options: ExplainerOptions) {
    this.#options = options
    this.#here = new ImageStatus(options)
  }

  /** @throws what the index throws */
  async explain({ name, reference }: ImageReference, namespace?: string): Promise<Explanation> {
    const ref = { name, reference, ...(namespace === undefined ? {} : { namespace }) }
    const routed = await this.#route(name, namespace)
    if ('refusal' in routed) return { ref, route: routed.route, pull: routed.refusal }
    const { route, destination } = routed
    return 'entry' in destination
      ? { ref, route, ...(await this.#mirrored(route, destination.entry, destination, reference)) }
      : { ref, route, ...(await this.#local(destination.name, reference)) }
  }

  async #route(
    name: ImageReference['name'],
    namespace: string | undefined,
  ): Promise<
    | { readonly route: RouteExplained; readonly refusal: Forecast }
    | { readonly route: RouteExplained; readonly destination: Destination }
  > {
    const { registry } = this.#options
    const refused = (why: string, status: 403 | 404, facts: Partial<RouteExplained> = {}) => ({
      route: { kind: 'refused', why, ...facts } as const,
      refusal: { outcome: 'refused', sentences: [`${status}: ${why}`] } as const,
    })
    let destination: Destination | undefined
    try {
      destination = await registry.route(name, namespace)
    } catch (error) {
      if (!(error instanceof OciError)) throw error
      return refused(
        namespace === undefined ? error.message : 'no upstream of the configuration is called what ns says',
        404,
      )
    }
    if (destination === undefined)
      return refused('no rule takes the name, and no upstream is the default', 404)
    const { rule } = destination
    const facts = { rule, number: NUMBERS[rule] }
    if (!('entry' in destination)) {
      const why = await this.#whyLocal(destination)
      const listedAs = destination.name
      const where = { registry: LOCAL, repository: destination.name, listedAs }
      return { route: { ...facts, why, kind: 'local', ...where }, destination }
    }
    const { entry, name: repository } = destination
    const { key } = entry.origin.upstream
    const list = refusing(entry, repository)
    if (list !== undefined) {
      const words = list === 'deny' ? 'lists' : 'does not list'
      return refused(`\`upstreams.${key}.${list}\` ${words} ${repository}`, 403, { ...facts, registry: key })
    }
    const why = whyMirrored(rule, name, entry, namespace) + officialNote(name, repository, key)
    const where = { registry: key, repository, listedAs: `${key}/${repository}` }
    return { route: { ...facts, why, kind: 'mirror', ...where }, destination }
  }

  async #whyLocal({ rule, name }: Destination): Promise<string> {
    if (rule === 'local') {
      const glob = this.#options.settings().local.find((it) => matchesAny([it], name))
      return `the glob ${glob ?? ''} of \`local\` takes it: it is ours, and no upstream hears of it`
    }
    const known = await this.#options.metadata.repositories.get({ registry: LOCAL, name })
    return known?.deletedAt === undefined
      ? 'it was pushed here, and hides what the default upstream has by that name'
      : 'it was pushed here and deleted; the name stays local until `entrepot rm --release` lets go of it'
  }

  async #local(
    name: ImageReference['name'],
    reference: Reference,
  ): Promise<Pick<Explanation, 'tag' | 'image' | 'keeping' | 'pull'>> {
    const { metadata, now } = this.#options
    const key = { registry: LOCAL, name }
    const record = isDigestReference(reference) ? undefined : await metadata.tags.get(key, reference)
    const digest = isDigestReference(reference) ? reference : record?.digest
    const found = digest && (await this.#look(key, undefined, { digest }))
    const image = isDigestReference(reference) && found?.held !== true ? undefined : found
    const gone = record?.deletedAt
    const tag = record && {
      digest: record.digest,
      checkedMsAgo: now() - record.checkedAt,
      ...(gone === undefined ? {} : { goneMsAgo: now() - gone }),
    }
    const keeping = image && (await this.#keeping(key, image, reference))
    return { tag, image, keeping, pull: localForecast(gone === undefined ? image : undefined, reference) }
  }

  async #mirrored(
    route: RouteExplained,
    entry: UpstreamEntry,
    { name }: Pick<Destination, 'name'>,
    reference: Reference,
  ): Promise<Pick<Explanation, 'tag' | 'image' | 'lists' | 'keeping' | 'upstream' | 'pull'>> {
    const { settings, serving, metadata, now } = this.#options
    const mirrored: MirrorRef = { origin: entry.origin, name }
    const { origin } = mirrored
    const key = repositoryKey(mirrored)
    const byDigest = isDigestReference(reference)
    const tag = byDigest ? undefined : await this.#tag(mirrored, reference)
    const image = await this.#image(mirrored, reference, tag)
    const silence = silenceOf(mirrored)
    const pull = forecast({
      ...{ upstream: origin.upstream.key, reference, tag, image, silence },
      facts: await this.#facts(mirrored, reference, image, silence),
      pullsRefused: origin.upstream.quotaBelow(0)?.message,
      pullsSpared: origin.upstream.quotaBelow(origin.reserve)?.message,
    })
    const open = image?.held === true || !byDigest
    const keeping = image && open ? await this.#keeping(key, image, reference) : undefined
    const held = image?.held === true ? image.digest : undefined
    const { negativeTtlMs } = settings()
    const lists = await listsHere({ metadata, negativeTtlMs, now }, mirrored, held)
    return { pull, tag, image, lists, keeping, upstream: explainUpstream(mirrored, serving) }
  }

  async #facts(
    mirrored: MirrorRef,
    reference: Reference,
    image: ImageExplained | undefined,
    silence: Silence | undefined,
  ): Promise<PullFacts> {
    const here = image?.manifest === 'present'
    if (!isDigestReference(reference)) {
      return this.#options.manifests.tags.explain(mirrored, reference, here, silence)
    }
    const { origin, name } = mirrored
    const fresh = here && image.held
    const absent = !fresh && origin.state.absent.has('manifest', name, reference)
    return { fresh, absent: absent ? 'manifest' : undefined }
  }

  async #tag(mirrored: MirrorRef, tag: Tag): Promise<TagExplained | undefined> {
    const { metadata, now } = this.#options
    const record = await metadata.tags.get(repositoryKey(mirrored), tag)
    if (record === undefined) return undefined
    const { digest, deletedAt } = record
    const checkedMsAgo = now() - record.checkedAt
    const ttlMs = mirrored.origin.tagTtlMs
    if (deletedAt !== undefined) return { digest, checkedMsAgo, ttlMs, goneMsAgo: now() - deletedAt }
    return matchesAny(mirrored.origin.immutableTags, tag)
      ? { digest, checkedMsAgo, ttlMs, immutable: true }
      : { digest, ttlMs, ...confirmed(checkedMsAgo, ttlMs) }
  }

  async #image(
    mirrored: MirrorRef,
    reference: Reference,
    tag: TagExplained | undefined,
  ): Promise<ImageExplained | undefined> {
    const { tags } = this.#options.metadata
    const key = repositoryKey(mirrored)
    if (isDigestReference(reference)) {
      const image = await this.#look(key, mirrored, { digest: reference })
      if (image.held) return image
      return image.manifest === 'present' ? closed(image) : undefined
    }
    if (tag === undefined) return undefined
    const record = await tags.get(key, reference)
    return this.#look(key, mirrored, record ?? tag)
  }

  #look(...args: Parameters<ImageStatus['look']>): Promise<ImageExplained> {
    return this.#here.look(...args)
  }

  #keeping(
    repository: RepositoryKey,
    image: ImageExplained,
    reference: Reference,
  ): Promise<KeepingExplained | undefined> {
    const { metadata, settings, inUse = () => false } = this.#options
    return keepingOf(
      { inventory: metadata.inventory, pin: settings().pin, inUse },
      repository,
      image,
      reference,
    )
  }
}

/** Hides what only other names hold: a client that knows a digest learns only that a pull would ask upstream. */
function closed({ digest, manifest }: ImageExplained): ImageExplained {
  const totals = { presentBytes: 0, missingBytes: 0, presentParts: 0, missingParts: 0 }
  return { digest, held: false, manifest, parts: [], platforms: [], totals }
}

function localForecast(image: ImageExplained | undefined, reference: Reference): Forecast {
  if (image?.held !== true) return { outcome: 'absent', sentences: [`404: there is no ${reference} here`] }
  const { status } = OCI_ERRORS.CONTENT_DAMAGED
  if (image.manifest !== 'present') {
    return { outcome: 'damaged', sentences: [`${status}: the bytes of its manifest are lost; push it again`] }
  }
  const { missingParts } = image.totals
  const damage = `${status} for ${missingParts} of what it names, whose bytes are lost; push it again`
  return {
    outcome: 'local',
    sentences: ['would be answered from here: it was pushed', ...(missingParts > 0 ? [damage] : [])],
  }
}

function whyMirrored(
  rule: Destination['rule'],
  name: string,
  { origin, aliases }: UpstreamEntry,
  namespace: string | undefined,
): string {
  const { key } = origin.upstream
  const named = (it: string): string => (aliases.includes(it) ? `${it}, another name of ${key}` : it)
  if (rule === 'ns') return `?ns= names the upstream ${named(namespace ?? '')}`
  if (rule === 'prefix') return `its first component names the upstream ${named(name.split('/', 1)[0] ?? '')}`
  return `no other rule takes it, so it goes to the default upstream, ${key}`
}

function officialNote(name: string, repository: string, key: string): string {
  const added = repository.startsWith('library/') && !name.includes('library/')
  return added ? `; names of one component are under library/ at ${key}` : ''
}
