/**
 * The answer to "what about this image?": what `GET /_entrepot/explain` sends, and `entrepot explain` prints.
 *
 * It is plain JSON. Times are spans from now, in milliseconds, so that they mean the same on both ends of a wire. Nothing
 * in it is a secret: no credentials, no names of users, no paths.
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
    /** `?ns=`, as it was asked with. */
    readonly namespace?: string | undefined
  }
  readonly route: RouteExplained
  /** What a pull of it would do now. */
  readonly pull: Forecast
  /** Only of a tag that was heard of. */
  readonly tag?: TagExplained | undefined
  /** Only of a manifest that was heard of. */
  readonly image?: ImageExplained | undefined
  /** Only where the name is an upstream's. */
  readonly lists?: ListsExplained | undefined
  /** Only of what is here. */
  readonly keeping?: KeepingExplained | undefined
  /** Only where the name is an upstream's. */
  readonly upstream?: UpstreamExplained | undefined
}

export interface RouteExplained {
  /** The rule of the naming that took the name, and its number; none where nothing takes it. */
  readonly rule?: 'ns' | 'local' | 'prefix' | 'existing' | 'default' | undefined
  readonly number?: 1 | 2 | 3 | 4 | 5 | undefined
  /** A sentence. */
  readonly why: string
  readonly kind: 'local' | 'mirror' | 'refused'
  /** `local`, or the upstream's key. */
  readonly registry?: string | undefined
  /** In that registry. */
  readonly repository?: string | undefined
  /** As the catalog lists it, and pins name it. */
  readonly listedAs?: string | undefined
}

/** How long ago upstream said something, and how long that is still believed. */
interface ConfirmedExplained {
  readonly checkedMsAgo: Milliseconds
  /** Until upstream is asked about it again. */
  readonly freshForMs?: Milliseconds | undefined
  /** Since upstream should be asked about it again. */
  readonly oldForMs?: Milliseconds | undefined
}

export interface TagExplained extends ConfirmedExplained {
  readonly digest: Digest
  /** How long a mirrored tag is believed. */
  readonly ttlMs?: Milliseconds | undefined
  /** Never asked about again: `upstreams.*.immutableTags`. */
  readonly immutable?: true | undefined
  /** Since upstream said that it is gone. */
  readonly goneMsAgo?: Milliseconds | undefined
}

/** What is here of an upstream's lists. */
export interface ListsExplained {
  /** Of the repository; undefined: upstream was never asked. */
  readonly tags?: ListExplained | undefined
  /** Of the image; undefined: upstream was never asked, or the image is not here. */
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
  /** The repository holds it: who knows its digest may pull it under this name. */
  readonly held: boolean
  readonly manifest: PartState
  /** Of it, and of the manifests that it names, the latest. */
  readonly pulledMsAgo?: Milliseconds | undefined
  readonly storedMsAgo?: Milliseconds | undefined
  /** Config and layers of an image; of an index nothing. In the manifest's order. */
  readonly parts: readonly PartExplained[]
  /** Of an index. */
  readonly platforms: readonly PlatformExplained[]
  readonly totals: Totals
}

/** Where bytes are. `unknown` for what was looked at no more, because there is so much. */
export type PartState = 'present' | 'missing' | 'wrong size' | 'fetching' | 'quarantined' | 'unknown'

export interface PartExplained {
  readonly role: 'config' | 'layer' | 'manifest'
  readonly digest: Digest
  /** Undefined: its manifest does not say. */
  readonly size?: Bytes | undefined
  readonly mediaType: string
  readonly state: PartState
  /** While it is fetched: what has come, whether somebody waits for it, and whether it waits itself for its turn. */
  readonly fetching?:
    { readonly bytes: Bytes; readonly followed: boolean; readonly queued: boolean } | undefined
  /** Of a file with the wrong size. */
  readonly found?: Bytes | undefined
  readonly pulledMsAgo?: Milliseconds | undefined
  /** Somebody reads it, fetches it, or puts it in its place. */
  readonly inUse?: true | undefined
  /** It is here, but upstream has yet to say that it may be read under this name. */
  readonly unconfirmed?: true | undefined
  /** What upstream sent was wrong twice: it is not asked for it for so much longer. */
  readonly silentForMs?: Milliseconds | undefined
  /** Registries do not hold it. */
  readonly foreign?: true | undefined
}

export interface PlatformExplained {
  /** `linux/arm64/v8`; the media type or the artifact type of what is for none. */
  readonly platform: string
  readonly digest: Digest
  /** Complete, in part, or not at all; `unknown` as above. */
  readonly state: 'present' | 'partial' | 'missing' | 'unknown'
  readonly presentBytes: Bytes
  /** Undefined while its manifest is not here to tell. */
  readonly missingBytes?: Bytes | undefined
}

/** Each digest once. Of manifests that are not here nobody knows what they name. */
export interface Totals {
  readonly presentBytes: Bytes
  readonly missingBytes: Bytes
  readonly presentParts: number
  readonly missingParts: number
}

export interface KeepingExplained {
  /** Somebody pushed it: it is never evicted. */
  readonly pushed: boolean
  /** Globs of `cache.pin` that keep it, and the name that each matches. */
  readonly pinnedBy: readonly { readonly glob: string; readonly name: string }[]
  readonly inUse: boolean
  /** Blobs that were pulled longer ago, and so go first; counted up to a limit. */
  readonly colder?: number | undefined
  readonly sentence: string
}

export interface UpstreamExplained {
  readonly key: string
  /** Undefined where no server runs: nobody has asked it anything. */
  readonly status?: UpstreamStatus | undefined
  /** What went wrong a short while ago, and is remembered. */
  readonly failing?: string | undefined
  readonly sentences: readonly string[]
}

export interface Forecast {
  /**
   * - `hit`, `local`, `stale`: answered from here, without asking anybody
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
