/**
 * Data of an explanation: what `GET /_entrepot/explain` sends, and `entrepot explain` prints.
 *
 * It is plain JSON. Times are spans from now, in milliseconds, so that they mean the same on both ends of a wire. It
 * holds no secrets: no credentials, no names of users, no paths.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { isYoung } from '../../cache/manifests/freshness.ts'
import type { UpstreamStatus } from '../../upstream/status.ts'
import type { Digest } from '../../oci/digest.ts'

export interface Explanation {
  readonly ref: {
    readonly name: string
    /** A tag or a digest. */
    readonly reference: string
    /** The client's `?ns=`. */
    readonly namespace?: string | undefined
  }
  readonly route: RouteExplained
  readonly pull: Forecast
  /** Set if the index knows the tag. */
  readonly tag?: TagExplained | undefined
  /** Set if the index knows the manifest. */
  readonly image?: ImageExplained | undefined
  /** Set if the name belongs to an upstream. */
  readonly lists?: ListsExplained | undefined
  /** Set if some of the image is here. */
  readonly keeping?: KeepingExplained | undefined
  /** Set if the name belongs to an upstream. */
  readonly upstream?: UpstreamExplained | undefined
}

export interface RouteExplained {
  /** The naming rule that took the name, and its number; undefined where no rule takes it. */
  readonly rule?: 'ns' | 'local' | 'prefix' | 'existing' | 'default' | undefined
  readonly number?: 1 | 2 | 3 | 4 | 5 | undefined
  /** A sentence. */
  readonly why: string
  readonly kind: 'local' | 'mirror' | 'refused'
  /** `local`, or the upstream's key. */
  readonly registry?: string | undefined
  readonly repository?: string | undefined
  /** The name in the catalog and in pins. */
  readonly listedAs?: string | undefined
}

/** How long ago upstream confirmed something, and for how long that is fresh. */
interface ConfirmedExplained {
  readonly checkedMsAgo: Milliseconds
  readonly freshForMs?: Milliseconds | undefined
  readonly oldForMs?: Milliseconds | undefined
}

export interface TagExplained extends ConfirmedExplained {
  readonly digest: Digest
  readonly ttlMs?: Milliseconds | undefined
  /** The tag is never revalidated: `upstreams.*.immutableTags`. */
  readonly immutable?: true | undefined
  /** How long ago upstream said that the tag is gone. */
  readonly goneMsAgo?: Milliseconds | undefined
}

/** The cached part of an upstream's lists. */
export interface ListsExplained {
  /** The repository's tags; undefined: upstream was never asked. */
  readonly tags?: ListExplained | undefined
  /** The image's referrers; undefined: upstream was never asked, or the image is not here. */
  readonly referrers?: (ListExplained & { readonly held: number }) | undefined
  readonly sentences: readonly string[]
}

export interface ListExplained extends ConfirmedExplained {
  /** Undefined: upstream says that there is no such list. */
  readonly count?: number | undefined
}

export interface ImageExplained {
  readonly digest: Digest
  readonly mediaType?: string | undefined
  readonly size?: Bytes | undefined
  /** The repository holds it, so a client that knows its digest may pull it under this name. */
  readonly held: boolean
  readonly manifest: PartState
  /** The latest pull of the manifest, or of one that it references. */
  readonly pulledMsAgo?: Milliseconds | undefined
  readonly storedMsAgo?: Milliseconds | undefined
  /** Config and layers of an image, in the manifest's order; empty for an index. */
  readonly parts: readonly PartExplained[]
  /** Empty unless the image is an index. */
  readonly platforms: readonly PlatformExplained[]
  readonly totals: Totals
}

/** Where bytes are; `unknown` where there are too many parts to look at each. */
export type PartState = 'present' | 'missing' | 'wrong size' | 'fetching' | 'quarantined' | 'unknown'

export interface PartExplained {
  readonly role: 'config' | 'layer' | 'manifest'
  readonly digest: Digest
  /** Undefined: its manifest does not say. */
  readonly size?: Bytes | undefined
  readonly mediaType: string
  readonly state: PartState
  /** The running download: its bytes so far, whether a client follows it, whether it waits for a transfer slot. */
  readonly fetching?:
    { readonly bytes: Bytes; readonly followed: boolean; readonly queued: boolean } | undefined
  /** The file's size, if it is wrong. */
  readonly found?: Bytes | undefined
  readonly pulledMsAgo?: Milliseconds | undefined
  /** It is being read, downloaded or stored. */
  readonly inUse?: true | undefined
  /** It is here, but upstream has yet to confirm that this name may read it. */
  readonly unconfirmed?: true | undefined
  /** Upstream sent wrong bytes twice: for so much longer it is not asked for them. */
  readonly silentForMs?: Milliseconds | undefined
  /** A non-distributable layer: registries do not hold it. */
  readonly foreign?: true | undefined
}

export interface PlatformExplained {
  /** `linux/arm64/v8`; where there is no platform, the artifact type or the media type. */
  readonly platform: string
  readonly digest: Digest
  /** Complete, in part, or not at all; `unknown` as in {@link PartState}. */
  readonly state: 'present' | 'partial' | 'missing' | 'unknown'
  readonly presentBytes: Bytes
  /** Undefined while its manifest is not here. */
  readonly missingBytes?: Bytes | undefined
}

/** Counts each digest once. Parts of manifests that are not here are unknown, and not counted. */
export interface Totals {
  readonly presentBytes: Bytes
  readonly missingBytes: Bytes
  readonly presentParts: number
  readonly missingParts: number
}

export interface KeepingExplained {
  /** A client pushed it: it is never evicted. */
  readonly pushed: boolean
  /** The globs of `cache.pin` that keep it, each with the name that it matches. */
  readonly pinnedBy: readonly { readonly glob: string; readonly name: string }[]
  readonly inUse: boolean
  /** How many blobs were pulled longer ago, and so are evicted first; counted up to a limit. */
  readonly colder?: number | undefined
  readonly sentence: string
}

export interface UpstreamExplained {
  readonly key: string
  /** Undefined where no server runs. */
  readonly status?: UpstreamStatus | undefined
  /** The last failure, as the negative cache remembers it. */
  readonly failing?: string | undefined
  readonly sentences: readonly string[]
}

export interface Forecast {
  /**
   * - `hit`, `local`, `stale`: answered from here, without asking upstream
   * - `head`: upstream is asked what the tag is now, and what is here answers as far as it can
   * - `get`: it is fetched
   * - `absent`: 404      - `refused`: 403, or 404 for the whole name      - `unavailable`: 503
   * - `damaged`: 500; it was pushed here, and its bytes are lost
   */
  readonly outcome:
    'hit' | 'local' | 'stale' | 'head' | 'get' | 'absent' | 'refused' | 'unavailable' | 'damaged'
  readonly sentences: readonly string[]
}

export function confirmed(checkedMsAgo: Milliseconds, ttlMs: Milliseconds): ConfirmedExplained {
  return isYoung(checkedMsAgo, ttlMs)
    ? { checkedMsAgo, freshForMs: ttlMs - checkedMsAgo }
    : { checkedMsAgo, oldForMs: checkedMsAgo - ttlMs }
}
