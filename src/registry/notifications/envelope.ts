/**
 * The JSON of an event, as distribution writes it; what its receivers decode.
 *
 * Unknown members are passed over by them, so what is ours alone is under an `x-` name.
 */
import { randomUUID } from 'node:crypto'
import type { EventRequest, RepositoryEvent } from './event.ts'
import type { EpochMs } from '../../storage/metadata/metadata.ts'

export const EVENTS_TYPE = 'application/vnd.docker.distribution.events.v2+json'

/** Who tells it. */
export interface Source {
  /** Host name and port. */
  readonly addr: string
  /** Of this run of the process. */
  readonly instanceID: string
}

/** More of them make an event that no receiver waits for. */
const MOST_REFERENCES = 200

/** @param base origin of the URLs in it; undefined: none are made up */
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
    // What is undefined is left out of the JSON.
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

/** Without what is for ourselves. */
function requestOf(cause: EventRequest | undefined): object {
  if (cause === undefined) return {}
  const { id, addr, host, method, useragent } = cause
  return { id, addr, host, method, useragent }
}

/** @param event as {@link eventOf} made it, in JSON */
export function envelopeOf(event: string): string {
  return JSON.stringify({ events: [JSON.parse(event) as unknown] }, undefined, 3)
}
