/**
 * Which names are local, also while the index cannot be read.
 *
 * The order of the naming rules is a security property: a broken index must not send a local name upstream. Nor
 * may it fail the pull of a name that is not local. So every local name is known here too: all there are at the
 * start, each new one before it is written.
 */
import { LOCAL, type MetadataStore, type MetadataTransaction } from '../store/metadata.ts'
import type { RepositoryName } from '../oci/reference.ts'

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

  /** The index, for whoever writes local repositories. */
  get watched(): MetadataStore {
    const { repositories, tags, manifests, blobs } = this.#index
    return {
      repositories,
      tags,
      manifests,
      blobs,
      transaction: (fill) => this.#index.transaction((tx) => fill(this.#watch(tx))),
      close: () => this.#index.close(),
    }
  }

  #watch(tx: MetadataTransaction): MetadataTransaction {
    return {
      putRepository: (repository, servedAt) => {
        if (repository.registry === LOCAL) this.#known.add(repository.name)
        tx.putRepository(repository, servedAt)
      },
      putManifest: (...facts) => tx.putManifest(...facts),
      putTag: (...facts) => tx.putTag(...facts),
      confirmTag: (...facts) => tx.confirmTag(...facts),
      buryTag: (...facts) => tx.buryTag(...facts),
      linkBlob: (...facts) => tx.linkBlob(...facts),
      recordDelivery: (...facts) => tx.recordDelivery(...facts),
      forgetBlob: (...facts) => tx.forgetBlob(...facts),
    }
  }
}
