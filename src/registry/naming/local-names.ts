/**
 * Which names are local, also while the index cannot be read.
 *
 * The order of the naming rules is a security property: a broken index must not send a local name upstream. Nor
 * may it fail the pull of a name that is not local. So every local name is known here too: all there are at the
 * start, each new one before it is written.
 */
import { LOCAL, type MetadataStore } from '../../storage/metadata/metadata.ts'
import type { RepositoryName } from '../../oci/reference.ts'

const PAGE = 1_000

export class LocalNames {
  readonly #index: MetadataStore
  readonly #known = new Set<RepositoryName>()

  private constructor(index: MetadataStore) {
    this.#index = index
  }

  static async load(index: MetadataStore): Promise<LocalNames> {
    const names = new LocalNames(index)
    for (let last: RepositoryName | undefined; ;) {
      const page = await index.repositories.list(LOCAL, {
        limit: PAGE,
        ...(last === undefined ? {} : { last }),
      })
      for (const name of page) names.#known.add(name)
      last = page.at(-1)
      if (page.length < PAGE) return names
    }
  }

  [Symbol.iterator](): Iterator<RepositoryName> {
    return this.#known[Symbol.iterator]()
  }

  /** A local repository of that name exists, or existed. */
  async has(name: RepositoryName): Promise<boolean> {
    try {
      return (await this.#index.repositories.get({ registry: LOCAL, name })) !== undefined
    } catch {
      return this.#known.has(name)
    }
  }

  /**
   * Before it is written: a name that is local for the index is local here. One that is released stays in here until
   * the next start, as a push of it may be under way; the index says that it is not local, and is asked first.
   */
  add(name: RepositoryName): void {
    this.#known.add(name)
  }
}
