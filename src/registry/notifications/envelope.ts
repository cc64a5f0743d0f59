/**
 * JSON of an event in the form of distribution/distribution, which receivers decode.
 *
 * They ignore unknown members: those that only this registry sends have an `x-` name.
 */
import { randomUUID } from 'node:crypto'
import type { EventRequest, RepositoryEvent } from './event.ts'
import type { EpochMs } from '../../storage/metadata/metadata.ts'

export const EVENTS_TYPE = 'application/vnd.docker.distribution.events.v2+json'

export interface Source {
  /** Host name and port. */
  readonly addr: string
  /** Changes with each start of the process. */
  readonly instanceID: string
}

/** With more references an event would be too large for its receivers. */
const MOST_REFERENCES = 200

/** @param base origin of the event's URLs; undefined: it has none */
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

/** Omits `reachedBy`, which only serves the URLs. */
function requestOf(cause: EventRequest | undefined): object {
  if (cause === undefined) return {}
  const { id, addr, host, method, useragent } = cause
  return { id, addr, host, method, useragent }
}

/** @param event JSON of a result of {@link eventOf} */
export function envelopeOf(event: string): string {
  return JSON.stringify({ events: [JSON.parse(event) as unknown] }, undefined, 3)
}
