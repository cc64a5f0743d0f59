/**
 * Name resolution: repository name (and `?ns=`) to Repository, by five rules (docs/architecture.md "Names"):
 *
 * 1. `ns` is an upstream's key or alias     2. a glob of `local` matches     3. the first component is a key
 * 4. a local repository of that name exists, or existed                      5. the default upstream
 *
 * `ns` is looked up, never dialled, and never reaches local repositories. The order is a security property: no
 * upstream hears of a name that rule 2 or 4 takes, and a local name is never filled in from elsewhere.
 */
import type { QuarantineHealth } from '../storage/integrity/examiner.ts'
import type { MirrorRef, Origin } from '../cache/origin.ts'
import { healthOf, type UpstreamHealth } from '../cache/resilience/upstream-health.ts'
import type { Digest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import { matchesAny } from '../oci/glob.ts'
import { parseRepositoryName, type RepositoryName } from '../oci/reference.ts'
import type { LocalNames } from './naming/local-names.ts'
import {
  refusalOfDelete,
  refusalOfPush,
  type PushDestination,
  type PushRefusal,
  type PushSettings,
} from './naming/push-policy.ts'
import type { Pusher, PushTarget } from './local/push-target.ts'
import type { Repository } from './repository.ts'

type Rule = 'ns' | 'local' | 'prefix' | 'existing' | 'default'

export interface Resolution {
  readonly repository: Repository
  /** Its name in the catalog. */
  readonly listedAs: string
  /** `OCI-Namespace` of the answer, when the client sent `?ns=`. */
  readonly namespace: string | undefined
  /** The rule that took the name; for messages and the log. */
  readonly rule: Rule
}

/** The part that requests use. */
export type Registry = Pick<NameRegistry, 'resolve' | 'pushTo' | 'deleteFrom' | 'catalog' | 'health'>

export interface RegistryHealth {
  readonly upstreams: readonly UpstreamHealth[]
  /**
   * `full`: pushes find no space. `bypassed`: the disk takes no writes, so pulls bypass the cache. `hanging`: the disk
   * does not answer, or the index cannot be written.
   */
  readonly storage: 'ok' | 'full' | 'bypassed' | 'hanging'
  /** Since when the disk does not answer, in ISO 8601. */
  readonly storageHangsSince?: string
  /** `exhausted`: the process met its limit of open files a short while ago. */
  readonly openFiles: 'ok' | 'exhausted'
  /** Pushed blobs that are damaged or gone, and have to be pushed again. */
  readonly quarantine: QuarantineHealth
}

export interface UpstreamEntry {
  readonly origin: Origin
  readonly aliases: readonly string[]
  readonly default: boolean
  /** Globs over the upstream's own names; undefined: everything. */
  readonly allow: readonly string[] | undefined
  readonly deny: readonly string[]
}

interface CatalogPage {
  /** Exclusive. */
  readonly last?: string
  readonly limit: number
}

interface NameRegistryOptions {
  /** Globs of names that are always local. */
  readonly local: () => readonly string[]
  /** Read at every push, so that a reload applies at once. */
  readonly pushes: PushSettings
  readonly localNames: Pick<LocalNames, 'has'>
  readonly storageFailing: () => boolean
  readonly storageFull: () => Promise<boolean>
  /** Unix time in ms; undefined: the disk answers. */
  readonly storageHangsSince: () => number | undefined
  readonly outOfFiles: () => boolean
  readonly quarantine: () => Promise<QuarantineHealth>
  /** Whether something of that repository was served here. */
  readonly served: (mirrored: MirrorRef) => Promise<boolean>
  readonly catalog: (page: CatalogPage) => Promise<string[]>
  readonly openLocal: (name: RepositoryName) => Repository
  /** @param assertFree throws when a client pulled the name meanwhile; undefined: that cannot happen */
  readonly openPushes: (
    name: RepositoryName,
    pusher: Pusher,
    assertFree: (() => Promise<void>) | undefined,
  ) => PushTarget
  /** @param pushRefusal for the requested name; undefined where no push can follow */
  readonly openMirror: (mirrored: MirrorRef, pushRefusal: PushRefusal | undefined) => Repository
}

/** The registry whose one-component names live under `library/`. */
const DOCKER_HUB = 'docker.io'

export type Destination =
  | { readonly rule: 'local' | 'existing'; readonly name: RepositoryName }
  | {
      readonly rule: 'ns' | 'prefix' | 'default'
      readonly entry: UpstreamEntry
      readonly name: RepositoryName
    }

export class NameRegistry {
  readonly #options: NameRegistryOptions
  #upstreams: readonly UpstreamEntry[] = []
  #byName = new Map<string, UpstreamEntry>()
  #default: UpstreamEntry | undefined

  constructor(options: NameRegistryOptions, upstreams: readonly UpstreamEntry[]) {
    this.#options = options
    this.replace(upstreams)
  }

  /** Applies to the next name; a resolved repository keeps its upstream. */
  replace(upstreams: readonly UpstreamEntry[]): void {
    this.#upstreams = upstreams
    this.#byName = new Map(
      upstreams.flatMap((it) => [it.origin.upstream.key, ...it.aliases].map((name) => [name, it] as const)),
    )
    this.#default = upstreams.find((it) => it.default)
  }

  /**
   * @param head the client, where the request is a HEAD that may begin a push
   * @throws OciError NAME_UNKNOWN when no rule takes the name, DENIED when the upstream's globs refuse it
   */
  async resolve(
    name: RepositoryName,
    namespace: string | undefined,
    head?: () => Pusher,
  ): Promise<Resolution> {
    const destination = await this.route(name, namespace)
    if (destination === undefined) throw new OciError('NAME_UNKNOWN', { name })
    if (!('entry' in destination)) {
      const { rule, name: local } = destination
      return { repository: this.#options.openLocal(local), listedAs: local, namespace: undefined, rule }
    }
    const { entry, rule } = destination
    const pushRefusal =
      head === undefined ? undefined : () => this.#refusalOfPush(name, namespace, destination, head())
    if (refusing(entry, destination.name) !== undefined) {
      // A name that must not be pulled may still be pushed, and the pushing client continues only after a 404.
      if (pushRefusal !== undefined && (await pushRefusal()) === undefined) {
        throw new OciError('NAME_UNKNOWN', { name })
      }
      throw new OciError(
        'DENIED',
        { name: destination.name, upstream: entry.origin.upstream.key },
        { message: `the configuration of ${entry.origin.upstream.key} does not allow this name` },
      )
    }
    const mirrored = { origin: entry.origin, name: destination.name }
    const listedAs = `${entry.origin.upstream.key}/${destination.name}`
    return { repository: this.#options.openMirror(mirrored, pushRefusal), listedAs, namespace, rule }
  }

  /** Whether a pull by that name could read the blob, and its bytes are here. Makes no request upstream. */
  async holds(name: RepositoryName, digest: Digest): Promise<boolean> {
    try {
      const { repository } = await this.resolve(name, undefined)
      return await repository.holds(digest)
    } catch (error) {
      if (error instanceof OciError && (error.code === 'DENIED' || error.code === 'NAME_UNKNOWN'))
        return false
      throw error
    }
  }

  /**
   * @throws OciError DENIED with the rule that refuses the push and a name that would work; NAME_UNKNOWN for an unknown
   *   namespace
   */
  async pushTo(name: RepositoryName, namespace: string | undefined, pusher: Pusher): Promise<PushTarget> {
    const destination = await this.route(name, namespace)
    const refuse = async (to: Destination | undefined): Promise<void> => {
      const refusal = await this.#refusalOfPush(name, namespace, to, pusher)
      if (refusal !== undefined) throw refusal
    }
    await refuse(destination)
    const assertFree = async (): Promise<void> => refuse(await this.route(name, namespace))
    return this.#options.openPushes(name, pusher, destination?.rule === 'default' ? assertFree : undefined)
  }

  /** Like {@link pushTo}, for deletes. @throws OciError UNSUPPORTED for a mirrored name */
  async deleteFrom(name: RepositoryName, namespace: string | undefined, pusher: Pusher): Promise<PushTarget> {
    const destination = await this.route(name, namespace)
    const refusal = refusalOfDelete(name, await this.#pushDestination(name, namespace, destination))
    if (refusal !== undefined) throw refusal
    return await this.pushTo(name, namespace, pusher)
  }

  /** @returns names under which clients pull here, local and cached */
  catalog(page: CatalogPage): Promise<string[]> {
    return this.#options.catalog(page)
  }

  async #refusalOfPush(
    name: RepositoryName,
    namespace: string | undefined,
    destination: Destination | undefined,
    pusher: Pusher,
  ): Promise<OciError | undefined> {
    const wanted = await this.#pushDestination(name, namespace, destination)
    return refusalOfPush(name, wanted, pusher, this.#options.pushes)
  }

  async #pushDestination(
    name: RepositoryName,
    namespace: string | undefined,
    destination: Destination | undefined,
  ): Promise<PushDestination> {
    if (destination === undefined) return { is: 'unclaimed' }
    if (!('entry' in destination)) return { is: destination.rule }
    const { origin } = destination.entry
    const upstream = origin.upstream.key
    if (destination.rule === 'default') {
      const served = await this.#options.served({ origin, name: destination.name })
      return { is: 'default', upstream, served }
    }
    const sign = namespace === undefined ? `${name.slice(0, name.indexOf('/'))}/` : `ns=${namespace}`
    return { is: 'claimed', upstream, sign }
  }

  /** `/readyz` shows with it what is degraded; none of it is a reason for a restart. */
  async health(): Promise<RegistryHealth> {
    return {
      upstreams: this.#upstreams.map(({ origin }) => healthOf(origin)),
      ...(await this.#storage()),
      openFiles: this.#options.outOfFiles() ? 'exhausted' : 'ok',
      quarantine: await this.#options.quarantine(),
    }
  }

  async #storage(): Promise<Pick<RegistryHealth, 'storage' | 'storageHangsSince'>> {
    const { storageHangsSince, storageFull, storageFailing } = this.#options
    const since = storageHangsSince()
    // A statfs on a hanging disk would hang as well.
    if (since !== undefined) return { storage: 'hanging', storageHangsSince: new Date(since).toISOString() }
    if (await storageFull()) return { storage: 'full' }
    return { storage: storageFailing() ? 'bypassed' : 'ok' }
  }

  /**
   * Applies the rules only: opens no repository, and ignores the upstream's globs.
   *
   * @returns undefined when no rule takes the name
   * @throws OciError NAME_UNKNOWN for an unknown namespace
   */
  async route(name: RepositoryName, namespace: string | undefined): Promise<Destination | undefined> {
    if (namespace !== undefined) {
      const entry = this.#byName.get(namespace)
      if (entry === undefined) {
        throw new OciError(
          'NAME_UNKNOWN',
          { ns: namespace.slice(0, 256) },
          { message: 'no such upstream is configured' },
        )
      }
      // containerd with override_path, and BuildKit, repeat the registry in the path, by its key or alias.
      const [first = '', ...rest] = name.split('/')
      const repeated = rest.length > 0 && this.#byName.get(first) === entry
      return { rule: 'ns', entry, name: upstreamName(entry, repeated ? rest : [first, ...rest]) }
    }
    if (matchesAny(this.#options.local(), name)) return { rule: 'local', name }
    const [first, ...rest] = name.split('/')
    const prefixed = first === undefined || rest.length === 0 ? undefined : this.#byName.get(first)
    if (prefixed !== undefined) return { rule: 'prefix', entry: prefixed, name: upstreamName(prefixed, rest) }
    if (await this.#options.localNames.has(name)) return { rule: 'existing', name }
    if (this.#default === undefined) return undefined
    return { rule: 'default', entry: this.#default, name: upstreamName(this.#default, name.split('/')) }
  }
}

/** The upstream's list that forbids to pull its repository `name`. */
export function refusing(
  { allow, deny }: Pick<UpstreamEntry, 'allow' | 'deny'>,
  name: RepositoryName,
): 'deny' | 'allow' | undefined {
  if (matchesAny(deny, name)) return 'deny'
  return allow === undefined || matchesAny(allow, name) ? undefined : 'allow'
}

function upstreamName(entry: UpstreamEntry, components: readonly string[]): RepositoryName {
  const official = entry.origin.upstream.key === DOCKER_HUB && components.length === 1
  return parseRepositoryName([...(official ? ['library'] : []), ...components].join('/'))
}

/**
 * Local repositories that a configuration would hide behind an upstream's key (rule 3 precedes rule 4). A start with
 * such a configuration is refused with these names.
 */
export function hiddenLocalNames(
  names: Iterable<RepositoryName>,
  upstreamNames: ReadonlySet<string>,
  local: readonly string[],
): RepositoryName[] {
  return [...names].filter((name) => {
    const [first, ...rest] = name.split('/')
    return rest.length > 0 && upstreamNames.has(first ?? '') && !matchesAny(local, name)
  })
}
