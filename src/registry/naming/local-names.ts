/**
 * Names of local repositories, known even while the index cannot be read.
 *
 * The order of the naming rules is a security property: a broken index must not send a local name upstream. Nor may it
 * fail the pull of a name that is not local. So this copy has every local name: all at the start, each new one before
 * its commit.
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

  /** Whether a local repository has that name, or had it until it was deleted. */
  async has(name: RepositoryName): Promise<boolean> {
    try {
      return (await this.#index.repositories.get({ registry: LOCAL, name })) !== undefined
    } catch {
      return this.#known.has(name)
    }
  }

  /**
   * Must be called before the commit, so that no name is local in the index only. A released name stays here until the
   * next start, because a push may be under way; the index, which is asked first, says that it is not local.
   */
  add(name: RepositoryName): void {
    this.#known.add(name)
  }
}
