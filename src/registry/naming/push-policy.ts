/**
 * Push policy: which names take pushes, and from which clients.
 *
 * A push makes a repository local under a glob of `local`, or, on a loopback listener, under any name that no
 * upstream's key claims and the default upstream never served here. Every other push is refused with a message that
 * names the rule and a name that would work. docs/architecture.md "Where pushes go".
 */
import { OciError } from '../../oci/errors.ts'
import { matchesAny } from '../../oci/glob.ts'
import type { RepositoryName, Tag } from '../../oci/reference.ts'
import type { Pusher } from '../local/push-target.ts'

export interface PushSettings {
  /** Every client that reaches the port may push. */
  readonly anonymous: boolean
  /** Programs on this machine may push. */
  readonly fromThisMachine: boolean
  /** Globs of names that take no pushes. */
  readonly deny: readonly string[]
  /** Globs of tags that must not move; with a `:` they match `name:tag`. */
  readonly immutable: readonly string[]
  /** Globs of names that are always local. */
  readonly local: readonly string[]
  /** Only this machine can reach the server. */
  readonly loopbackListener: boolean
}

/** Result of the naming rules for a name to push to. */
export type PushDestination =
  | { readonly is: 'local' | 'existing' | 'unclaimed' }
  /** `sign` is the part that makes it the upstream's: `quay.io/`, `ns=quay.io`. */
  | { readonly is: 'claimed'; readonly upstream: string; readonly sign: string }
  /** The default upstream would serve it; `served`: something of it was pulled here. */
  | { readonly is: 'default'; readonly upstream: string; readonly served: boolean }

/** The error that a push by this client would get now; undefined: it would be accepted. */
export type PushRefusal = () => Promise<OciError | undefined>

/** @returns DENIED, with a message for the pushing user; undefined: the push is accepted */
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

/** Clients cannot delete from a mirror, whatever their rights; undefined: the name is not mirrored. */
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

/** The glob of `deny` that matches. */
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

/** @throws OciError DENIED for a tag that exists and must not move */
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
