/**
 * Where pushes go, and who may push.
 *
 * A push makes a repository local under a glob of `local`, or, on a loopback listener, under any name that no
 * upstream's key claims and the default upstream never served here. Everything else is refused, in words that
 * say which rule did it and what name would work. docs/architecture.md "Where pushes go".
 */
import { OciError } from '../../oci/errors.ts'
import { matchesAny } from '../../oci/glob.ts'
import type { RepositoryName, Tag } from '../../oci/reference.ts'
import type { Pusher } from '../local/push-target.ts'

export interface PushSettings {
  /** Whoever reaches the port may push. */
  readonly anonymous: boolean
  /** So may programs on this machine. */
  readonly fromThisMachine: boolean
  /** Globs of names nobody may push to. */
  readonly deny: readonly string[]
  /** Globs of tags that do not move; with a `:` they are over `name:tag`. */
  readonly immutable: readonly string[]
  /** Globs of names that are always ours. */
  readonly local: readonly string[]
  /** Only this machine can reach us. */
  readonly loopbackListener: boolean
}

/** What the naming rules say of a name that somebody wants to push to. */
export type PushDestination =
  | { readonly is: 'local' | 'existing' | 'unclaimed' }
  /** `sign` is what made it the upstream's: `quay.io/`, `ns=quay.io`. */
  | { readonly is: 'claimed'; readonly upstream: string; readonly sign: string }
  /** The default upstream answers for it; `served` when something of it is here already. */
  | { readonly is: 'default'; readonly upstream: string; readonly served: boolean }

/** What whoever asks would be told if they pushed now; undefined: it would be taken. */
export type PushRefusal = () => Promise<OciError | undefined>

/** DENIED, in words for the person who pushes; undefined: it is taken. */
export function refusalOfPush(
  name: RepositoryName,
  destination: PushDestination,
  pusher: Pusher,
  settings: PushSettings,
): OciError | undefined {
  const message =
    claim(name, destination, settings) ??
    reservation(name, settings) ??
    stranger(pusher, settings) ??
    openness(destination, settings)
  return message === undefined ? undefined : new OciError('DENIED', { name }, { message })
}

/** Of what is mirrored there is nothing for clients to delete, whoever asks; undefined: it is not mirrored. */
export function refusalOfDelete(name: RepositoryName, destination: PushDestination): OciError | undefined {
  const mirrored =
    destination.is === 'claimed' || (destination.is === 'default' && destination.served)
      ? destination.upstream
      : undefined
  if (mirrored === undefined) return undefined
  const message = `${name} is mirrored from ${mirrored}: it can be deleted there, and here by the command \`rm\``
  return new OciError('UNSUPPORTED', { name }, { message, allow: ['GET', 'HEAD'] })
}

function claim(
  name: RepositoryName,
  destination: PushDestination,
  settings: PushSettings,
): string | undefined {
  if (destination.is === 'claimed') {
    const { sign, upstream } = destination
    return `${sign} makes it a name of ${upstream}, which is mirrored here and cannot be pushed to; ${whatWorks(settings)}`
  }
  if (destination.is === 'default' && destination.served) {
    return (
      `${name} was pulled from ${destination.upstream} through here, and a push would hide it; ` +
      whatWorks(settings)
    )
  }
  return undefined
}

function reservation(name: RepositoryName, settings: PushSettings): string | undefined {
  const glob = reservingGlob(name, settings)
  return glob === undefined ? undefined : `push.deny reserves ${glob}; ${whatWorks(settings)}`
}

/** The glob that keeps everybody from pushing that name. */
export function reservingGlob(
  name: RepositoryName,
  { deny }: Pick<PushSettings, 'deny'>,
): string | undefined {
  return deny.find((it) => matchesAny([it], name))
}

function stranger(pusher: Pusher, settings: PushSettings): string | undefined {
  const { anonymous, fromThisMachine, loopbackListener } = settings
  if (anonymous || (fromThisMachine && pusher.onThisMachine)) return undefined
  if (!loopbackListener)
    return 'pushes are not open to the network; push.anonymous: true in the configuration opens them'
  return fromThisMachine
    ? 'pushes are taken from programs on this machine that speak to us directly, under a name such as localhost; ' +
        'push.anonymous: true opens them to whoever reaches the port'
    : 'pushes are not open to programs on this machine: that is so by default where server.publicUrl tells of a ' +
        'proxy in front; push.local: true in the configuration opens them, ' +
        'push.anonymous: true opens them to whoever reaches the port'
}

function openness({ is }: PushDestination, settings: PushSettings): string | undefined {
  if (is === 'local' || is === 'existing' || settings.loopbackListener) return undefined
  return `this server is open to the network, where only names of \`local\` take pushes; ${whatWorks(settings)}`
}

function whatWorks({ local, loopbackListener, deny }: PushSettings): string {
  const example = local.find((glob) => !matchesAny(deny, glob))
  if (example !== undefined) return `a name that matches ${example} works`
  return loopbackListener
    ? 'a name without a registry in front, such as team/app, works'
    : 'list names of your own in `local`, such as team/**'
}

/** @throws OciError DENIED for a tag that names something else already, and must not be moved */
export function assertMayMove(
  name: RepositoryName,
  tag: Tag,
  settings: Pick<PushSettings, 'immutable'>,
): void {
  const glob = settings.immutable.find((it) => isOfTag(it, name, tag))
  if (glob === undefined) return
  throw new OciError(
    'DENIED',
    { name, tag },
    { message: `push.immutable (${glob}) keeps the tag ${tag} where it is; push under another tag` },
  )
}

function isOfTag(glob: string, name: RepositoryName, tag: Tag): boolean {
  const colon = glob.lastIndexOf(':')
  return matchesAny([glob.slice(colon + 1)], tag) && (colon < 0 || matchesAny([glob.slice(0, colon)], name))
}
