/**
 * JSON of an event, as the registry distribution/distribution writes it and its receivers decode it.
 *
 * Receivers pass over members that they do not know: members that only we have are under an `x-` name.
 */
import { randomUUID } from 'node:crypto'
import type { EventRequest, RepositoryEvent } from './event.ts'
import type { EpochMs } from '../../storage/metadata/metadata.ts'

export const EVENTS_TYPE = 'application/vnd.docker.distribution.events.v2+json'

/** The registry that sends it. */
export interface Source {
  /** Host name and port. */
  readonly addr: string
  /** Of this run of the process. */
  readonly instanceID: string
}

/** With more references an event would be too large for its receivers. */
const MOST_REFERENCES = 200

/** @param base origin of the URLs in it; undefined: it has none */
export function eventOf(
  happening: RepositoryEvent,
  cause: EventRequest | undefined,
  { source, base, at }: { source: Source; base: string | undefined; at: EpochMs },
): object {
  const { action, kind, repository, digest, tag, mediaType, size, references, fromRepository, upstream } =
    happening
  const path = kind === 'blob' ? 'blobs' : 'manifests'
  const named = action !== 'delete' && base !== undefined && digest !== undefined
  return {
    id: randomUUID(),
    timestamp: new Date(at).toISOString(),
    action,
    // JSON leaves out members that are undefined.
    target: {
      mediaType,
      digest,
      size,
      length: size,
      repository,
      fromRepository,
      url: named ? `${base}/v2/${repository}/${path}/${digest}` : undefined,
      tag,
      references:
        references === undefined || references.length > MOST_REFERENCES
          ? undefined
          : references.map((it) => ({ mediaType: it.mediaType, digest: it.digest, size: it.size })),
      'x-upstream': upstream,
    },
    request: requestOf(cause),
    actor: {},
    source,
  }
}

/** Without `reachedBy`, which is for the URLs alone. */
function requestOf(cause: EventRequest | undefined): object {
  if (cause === undefined) return {}
  const { id, addr, host, method, useragent } = cause
  return { id, addr, host, method, useragent }
}

/** @param event as {@link eventOf} made it, in JSON */
export function envelopeOf(event: string): string {
  return JSON.stringify({ events: [JSON.parse(event) as unknown] }, undefined, 3)
}
