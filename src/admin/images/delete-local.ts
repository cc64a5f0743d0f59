/**
 * Deletes pushed content, for `entrepot rm`: tags, images, repositories, and the claim of an empty one on its name.
 *
 * Deleting frees no bytes; the garbage collector does, after its grace period. Mirrored images: `delete-mirrored.ts`.
 */
import type { Bytes } from '../../base/units.ts'
import { matchesAny } from '../../oci/glob.ts'
import {
  isDigestReference,
  parseReference,
  parseRepositoryName,
  type RepositoryName,
} from '../../oci/reference.ts'
import { LOCAL, type MetadataStore } from '../../storage/metadata/metadata.ts'
import type { PushTarget } from '../../registry/local/push-target.ts'
import { OperatorError } from '../../base/operator-error.ts'

interface LocalDeletionOptions {
  readonly metadata: MetadataStore
  readonly openPushes: (name: RepositoryName) => PushTarget
  /** Globs of names that are always local. */
  readonly local: () => readonly string[]
}

export interface Removed {
  readonly what: 'tag' | 'image' | 'repository' | 'name'
  readonly name: string
  /** The tag or the digest. */
  readonly reference?: string
  /** Bytes freed on the disk; the collector frees pushed ones later. */
  readonly bytes?: Bytes | undefined
  /** A sentence for the operator. */
  readonly note?: string
}

/** The most tags that a message names. */
const MOST_NAMED = 10

export class LocalDeletion {
  readonly #options: LocalDeletionOptions

  constructor(options: LocalDeletionOptions) {
    this.#options = options
  }

  /**
   * @param reference a tag or a digest; undefined: the whole repository
   * @throws OperatorError when it is not local, or not there; OciError when it is no name
   */
  async remove(given: string, reference: string | undefined): Promise<Removed> {
    const name = parseRepositoryName(given)
    await this.#assertLocal(name)
    const pushes = this.#options.openPushes(name)
    if (reference === undefined) {
      if (!(await pushes.deleteRepository())) throw new OperatorError(`${name} was deleted already`)
      const note = `the name stays local; \`entrepot rm --release ${name}\` lets it be mirrored again`
      return { what: 'repository', name, note }
    }
    const parsed = parseReference(reference)
    if (!(await pushes.deleteManifest(parsed))) throw new OperatorError(`there is no ${parsed} in ${name}`)
    return { what: isDigestReference(parsed) ? 'image' : 'tag', name, reference: parsed }
  }

  /** @throws OperatorError while the name still has anything to pull */
  async release(given: string): Promise<Removed> {
    const { local, openPushes } = this.#options
    const name = parseRepositoryName(given)
    await this.#assertLocal(name)
    const left = await openPushes(name).release()
    if (left !== undefined) {
      const tags = left.tags.slice(0, MOST_NAMED).join(', ') + (left.tags.length > MOST_NAMED ? ' …' : '')
      const what = left.tags.length > 0 ? `has tags: ${tags}` : 'holds images without a tag'
      throw new OperatorError(
        `${name} is in use: it still ${what}; \`entrepot rm --all ${name}\` deletes all of it first`,
      )
    }
    if (!matchesAny(local(), name)) return { what: 'name', name }
    return {
      what: 'name',
      name,
      note: 'a glob of `local` in the configuration keeps the name local all the same',
    }
  }

  async #assertLocal(name: RepositoryName): Promise<void> {
    if ((await this.#options.metadata.repositories.get({ registry: LOCAL, name })) !== undefined) return
    throw new OperatorError(`no local repository is called ${name}`)
  }
}
