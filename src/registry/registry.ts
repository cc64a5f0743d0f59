/**
 * Repository name (and `?ns=`) -> Repository. The five rules of "Names -> repositories", in one place:
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

/** The rule that took a name. */
type Rule = 'ns' | 'local' | 'prefix' | 'existing' | 'default'

export interface Resolution {
  readonly repository: Repository
  /** As the catalog lists it. */
  readonly listedAs: string
  /** What to echo as `OCI-Namespace`, when the client sent `?ns=`. */
  readonly namespace: string | undefined
  /** Why it went there; for messages and the log. */
  readonly rule: Rule
}

/** The part of it that requests use. */
export type Registry = Pick<NameRegistry, 'resolve' | 'pushTo' | 'deleteFrom' | 'catalog' | 'health'>

export interface RegistryHealth {
  readonly upstreams: readonly UpstreamHealth[]
  /**
   * `full`: pushes find no room. `bypassed`: the cache is, because the disk would not take it. `hanging`: the disk does
   * not answer, or takes nothing into the index.
   */
  readonly storage: 'ok' | 'full' | 'bypassed' | 'hanging'
  /** Since when it does not answer, in ISO 8601. */
  readonly storageHangsSince?: string
  /** Whether files and connections can be opened, or the limit of this process was met a short while ago. */
  readonly openFiles: 'ok' | 'exhausted'
  /** What was pushed here and is damaged, or gone: to be pushed again. */
  readonly quarantine: QuarantineHealth
}

export interface UpstreamEntry {
  readonly origin: Origin
  readonly aliases: readonly string[]
  readonly default: boolean
  /** Globs over upstream's own names; undefined: everything. */
  readonly allow: readonly string[] | undefined
  readonly deny: readonly string[]
}

interface CatalogPage {
  /** Exclusive. */
  readonly last?: string
  readonly limit: number
}

interface NameRegistryOptions {
  /** Globs of names that are always ours. */
  readonly local: () => readonly string[]
  /** Read at every push. */
  readonly pushes: PushSettings
  readonly localNames: Pick<LocalNames, 'has'>
  readonly storageFailing: () => boolean
  readonly storageFull: () => Promise<boolean>
  /** Unix time in ms; undefined: it answers. */
  readonly storageHangsSince: () => number | undefined
  readonly outOfFiles: () => boolean
  readonly quarantine: () => Promise<QuarantineHealth>
  /** Something of that repository was served here. */
  readonly served: (mirrored: MirrorRef) => Promise<boolean>
  readonly catalog: (page: CatalogPage) => Promise<string[]>
  readonly openLocal: (name: RepositoryName) => Repository
  /** @param assertFree throws when somebody pulled the name meanwhile; undefined: nobody can have */
  readonly openPushes: (
    name: RepositoryName,
    pusher: Pusher,
    assertFree: (() => Promise<void>) | undefined,
  ) => PushTarget
  /** @param pushRefusal by the name that was asked for; undefined where nobody may be about to push */
  readonly openMirror: (mirrored: MirrorRef, pushRefusal: PushRefusal | undefined) => Repository
}

/** The registry whose one-component names live under `library/`. */
const DOCKER_HUB = 'docker.io'

/** Where a name goes, and which rule took it. */
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

  /** From the next name on; whoever has resolved one already keeps what it has. */
  replace(upstreams: readonly UpstreamEntry[]): void {
    this.#upstreams = upstreams
    this.#byName = new Map(
      upstreams.flatMap((it) => [it.origin.upstream.key, ...it.aliases].map((name) => [name, it] as const)),
    )
    this.#default = upstreams.find((it) => it.default)
  }

  /**
   * @param head who asks, where it is a HEAD: that may be the beginning of a push
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
      // That it must not be pulled keeps nobody from pushing it here, and a push goes on only after a 404.
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

  /** Whether a pull by that name may read the blob, and its bytes are here. Asks no upstream. */
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
   * @throws OciError DENIED with the rule that refuses the write and a name that would work; NAME_UNKNOWN for an unknown
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

  /** Like {@link pushTo}, for deleting. @throws OciError UNSUPPORTED for what is mirrored */
  async deleteFrom(name: RepositoryName, namespace: string | undefined, pusher: Pusher): Promise<PushTarget> {
    const destination = await this.route(name, namespace)
    const refusal = refusalOfDelete(name, await this.#pushDestination(name, namespace, destination))
    if (refusal !== undefined) throw refusal
    return await this.pushTo(name, namespace, pusher)
  }

  /** @returns names as they are pulled here, local and cached ones */
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

  /** For `/readyz`: what works less than it should; never a reason to be restarted. */
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
    // A disk that hangs is not asked how full it is.
    if (since !== undefined) return { storage: 'hanging', storageHangsSince: new Date(since).toISOString() }
    if (await storageFull()) return { storage: 'full' }
    return { storage: storageFailing() ? 'bypassed' : 'ok' }
  }

  /**
   * Opens nothing, and refuses nothing that the upstream's globs do.
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
      // containerd with override_path, and BuildKit, repeat the registry in the path, by the name they know.
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

/** Which of an upstream's lists keeps that name of its own from being pulled. */
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
 * Local repositories that a configuration would hide behind an upstream's key (rule 3 goes before rule 4).
 * A start that would is refused with these names.
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
