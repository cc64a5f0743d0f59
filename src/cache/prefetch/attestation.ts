/**
 * Attestation manifests: BuildKit's statements about an image (provenance, SBOM), as manifests of its index.
 *
 * Docker 29 and later fetches that of the platform it pulls, and asks for its referrers on every pull. An index is
 * immutable and references them itself, so answers about them are believed for long.
 */
import type { Milliseconds } from '../../base/units.ts'
import { ATTESTATION, type Descriptor } from '../../oci/descriptor.ts'
import type { Digest } from '../../oci/digest.ts'

/** How long the list of an attestation's referrers is believed, and that there is none. */
export const ATTESTATION_TTL_MS: Milliseconds = 86_400_000

/** @param descriptor by which its index references it */
export function isAttestation(descriptor: Pick<Descriptor, 'annotations'> | undefined): boolean {
  return descriptor?.annotations?.[ATTESTATION.type] === 'attestation-manifest'
}

export function subjectOfAttestation(descriptor: Pick<Descriptor, 'annotations'>): Digest | undefined {
  return isAttestation(descriptor)
    ? (descriptor.annotations?.[ATTESTATION.subject] as Digest | undefined)
    : undefined
}
