/**
 * Search: this registry's repositories, pushed and cached, followed by Docker Hub's results.
 *
 * Every result can be pulled by the name under which it is listed: a name that the rules would send elsewhere, or that
 * an upstream's globs refuse, is left out. This registry's own come first, so that no page is full before them.
 */
import { parseRepositoryName } from '../oci/reference.ts'
import type { Registry } from './registry.ts'

interface Found {
  /** The name to pull here: `team/app`, `docker.io/library/nginx`. */
  readonly name: string
  readonly description: string
  readonly stars: number
  readonly official: boolean
  readonly automated: boolean
}

interface SearchOptions {
  readonly resolve: Registry['resolve']
  /** Names after `last`, in lexical order. */
  readonly catalog: (
    page: { readonly last?: string; readonly limit: number },
    containing: string,
  ) => Promise<string[]>
  /** Docker Hub's search; undefined: disabled. */
  readonly hub?: { search(term: string, signal: AbortSignal): Promise<readonly Found[]> } | undefined
}

/** Key of the upstream that is searched. */
const HUB = 'docker.io'

/** Limit of this registry's own results; users look at no more. */
const MOST = 100
const PAGE = 500
/** Limit of the pages of names examined for one search. */
const MOST_PAGES = 20

const MAX_TERM_LENGTH = 200
const MAX_DESCRIPTION_LENGTH = 500

export class Search {
  readonly #options: SearchOptions

  constructor(options: SearchOptions) {
    this.#options = options
  }

  /** An empty term finds all of this registry's own. @throws the index's errors, or the signal's reason */
  async find(text: string, signal: AbortSignal): Promise<readonly Found[]> {
    const term = text.slice(0, MAX_TERM_LENGTH).trim().toLowerCase().replaceAll(/\s+/g, ' ')
    const [ours, hubs] = await Promise.all([this.#ours(term), this.#hubs(term, signal)])
    const byName = new Map(hubs.map((it) => [it.name, it]))
    const here = ours.map(
      (name) =>
        byName.get(name) ?? {
          name,
          description: '',
          stars: 0,
          official: name.startsWith(`${HUB}/library/`),
          automated: false,
        },
    )
    const known = new Set(ours)
    return [...here, ...hubs.filter(({ name }) => !known.has(name))]
  }

  async #ours(term: string): Promise<string[]> {
    const words = term.split(' ')
    const found: string[] = []
    for (let pages = 0, last: string | undefined; pages < MOST_PAGES && found.length < MOST; pages++) {
      const page = await this.#options.catalog(
        { limit: PAGE, ...(last === undefined ? {} : { last }) },
        words[0] ?? '',
      )
      for (const name of page) {
        const registry = await this.#registryOf(name)
        if (registry !== undefined && words.every((word) => speaksOf(name, registry, word))) found.push(name)
      }
      last = page.at(-1)
      if (page.length < PAGE) break
    }
    // Matches of a whole name come first.
    const exact = (name: string): boolean => name === term || name.endsWith(`/${term}`)
    return [...found.filter(exact), ...found.filter((name) => !exact(name))].slice(0, MOST)
  }

  async #hubs(term: string, signal: AbortSignal): Promise<readonly Found[]> {
    const { hub } = this.#options
    if (hub === undefined || term === '') return []
    const found: Found[] = []
    for (const it of await hub.search(term, signal)) {
      const name = `${HUB}/${it.name}`
      const description = it.description.replaceAll(/\p{Cc}+/gu, ' ').slice(0, MAX_DESCRIPTION_LENGTH)
      if ((await this.#registryOf(name)) === HUB) found.push({ ...it, name, description })
    }
    return found
  }

  /** Undefined: a pull of that name would be refused, or get something else. */
  async #registryOf(name: string): Promise<string | undefined> {
    try {
      const { rule, repository } = await this.#options.resolve(parseRepositoryName(name), undefined)
      return rule === 'default' ? undefined : repository.registry
    } catch {
      return undefined
    }
  }
}

/** The term `docker` does not match everything from `docker.io`; `docker.io` does. */
function speaksOf(name: string, registry: string, word: string): boolean {
  const own = name.startsWith(`${registry}/`) ? name.slice(registry.length + 1) : name
  return own.includes(word) || (/[./]/.test(word) && name.includes(word))
}
