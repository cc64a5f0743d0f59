/**
 * What the simulated registry holds.
 */
import type { Content, Image } from './images.ts'

export interface SimulatedRepository {
  readonly tags: Map<string, string>
  readonly manifests: Map<string, Content>
  readonly blobs: Map<string, Content>
}

export class Holdings {
  readonly repositories = new Map<string, SimulatedRepository>()

  /** Makes the repository when it is new. */
  repository(name: string): SimulatedRepository {
    let repository = this.repositories.get(name)
    if (repository === undefined) {
      repository = { tags: new Map(), manifests: new Map(), blobs: new Map() }
      this.repositories.set(name, repository)
    }
    return repository
  }

  /** Everything of the image; `tag` names its top manifest, now or from now on. */
  addImage(name: string, tag: string | undefined, image: Image): void {
    const repository = this.repository(name)
    for (const manifest of image.manifests) repository.manifests.set(manifest.digest, manifest)
    for (const blob of image.blobs) repository.blobs.set(blob.digest, blob)
    if (tag !== undefined) repository.tags.set(tag, image.manifest.digest)
  }

  addBlob(name: string, blob: Content): void {
    this.repository(name).blobs.set(blob.digest, blob)
  }

  addManifest(name: string, tag: string | undefined, manifest: Content): void {
    const repository = this.repository(name)
    repository.manifests.set(manifest.digest, manifest)
    if (tag !== undefined) repository.tags.set(tag, manifest.digest)
  }

  manifest(name: string, reference: string): Content | undefined {
    const repository = this.repositories.get(name)
    return repository?.manifests.get(repository.tags.get(reference) ?? reference)
  }

  /** Descriptors of the manifests whose subject is `digest`. */
  referrers(name: string, digest: string): Record<string, unknown>[] {
    const all = [...(this.repositories.get(name)?.manifests.values() ?? [])]
    return all.flatMap((manifest) => {
      const parsed = JSON.parse(manifest.bytes.toString()) as {
        subject?: { digest: string }
        artifactType?: string
        config?: { mediaType: string }
        annotations?: Record<string, string>
      }
      if (parsed.subject?.digest !== digest) return []
      const artifactType = parsed.artifactType ?? parsed.config?.mediaType
      return [
        {
          mediaType: manifest.mediaType,
          digest: manifest.digest,
          size: manifest.bytes.length,
          ...(artifactType === undefined ? {} : { artifactType }),
          ...(parsed.annotations === undefined ? {} : { annotations: parsed.annotations }),
        },
      ]
    })
  }
}
