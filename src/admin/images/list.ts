/**
 * Lists everything that clients can pull here, by name, a page at a time: `entrepot ls`.
 *
 * Between two pages the event loop has a turn, so that no client of the server waits for a long list.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { setImmediate as turn } from 'node:timers/promises'
import { pins } from '../../cache/eviction/pins.ts'
import type { Digest } from '../../oci/digest.ts'
import type { InventoryIndex } from '../../storage/metadata/inventory-index.ts'
import { LOCAL, type EpochMs, type RepositoryKey } from '../../storage/metadata/metadata.ts'
import { pullName } from '../../storage/integrity/findings.ts'
import { OperatorError } from '../../base/operator-error.ts'

export interface ListedImage {
  /** The name by which clients pull it here, without tag and digest. */
  readonly name: string
  /** Left out where only the digest names the image. */
  readonly tag?: string | undefined
  readonly digest: Digest
  /** The bytes of all its parts that are here; a shared part counts for each image. 0: only its name is known. */
  readonly bytes: Bytes
  readonly pulledMsAgo?: Milliseconds | undefined
  /** The time since it was stored. */
  readonly ageMs?: Milliseconds | undefined
  /** `pinned` where `cache.pin` matches the image itself. */
  readonly is: 'cached' | 'pushed' | 'pinned'
}

export interface ListPart {
  readonly images: readonly ListedImage[]
}

interface ImageListOptions {
  readonly inventory: InventoryIndex
  /** Globs over full names. */
  readonly pin: () => readonly string[]
  /** The later of the access time in the index and the one in memory. */
  readonly latest: (digest: Digest, written: EpochMs) => EpochMs
  readonly now: () => EpochMs
}

type Row = Omit<ListedImage, 'bytes' | 'pulledMsAgo' | 'ageMs'>

const PAGE = 200

const MAX_PATTERN = 1000

export class ImageList {
  readonly #options: ImageListOptions

  constructor(options: ImageListOptions) {
    this.#options = options
  }

  /**
   * Lists by name, then by tag, untagged last. @param pattern a glob as in `cache.pin`, or a prefix; undefined: all
   */
  async *list(pattern: string | undefined, signal: AbortSignal): AsyncGenerator<ListPart, void, undefined> {
    if ((pattern?.length ?? 0) > MAX_PATTERN) throw new OperatorError('no name is that long')
    let rows: Row[] = []
    for await (const repository of merged(this.#repositories('local'), this.#repositories('mirrored'))) {
      if (!mayHold(pullName(repository), pattern)) continue
      for await (const row of this.#rows(repository)) {
        if (!fits(row, pattern)) continue
        rows.push(row)
        if (rows.length < PAGE) continue
        yield { images: await this.#weighed(rows) }
        rows = []
        await turn()
        signal.throwIfAborted()
      }
      signal.throwIfAborted()
    }
    if (rows.length > 0) yield { images: await this.#weighed(rows) }
  }

  async *#repositories(kind: 'local' | 'mirrored'): AsyncGenerator<RepositoryKey> {
    for (let last: string | undefined; ;) {
      await turn()
      const page = await this.#options.inventory.repositories(kind, { limit: PAGE, ...(last && { last }) })
      yield* page
      const end = page.at(-1)
      if (page.length < PAGE || end === undefined) return
      last = pullName(end)
    }
  }

  async *#rows(repository: RepositoryKey): AsyncGenerator<Row> {
    const { inventory } = this.#options
    const name = pullName(repository)
    const rowOf = (digest: Digest, tag?: string): Row => ({
      ...{ name, digest, is: this.#stateOf(repository, name, digest, tag) },
      ...(tag === undefined ? {} : { tag }),
    })
    for (let last: string | undefined; ;) {
      const page = await inventory.tags(repository, { limit: PAGE, ...(last && { last }) })
      for (const { tag, digest } of page) yield rowOf(digest, tag)
      last = page.at(-1)?.tag
      if (page.length < PAGE) break
      await turn()
    }
    for (let last: Digest | undefined; ;) {
      const { found, next } = await inventory.untagged(repository, last)
      for (const digest of found) yield rowOf(digest)
      if (next === undefined) return
      last = next
      await turn()
    }
  }

  #stateOf({ registry }: RepositoryKey, name: string, digest: Digest, tag?: string): Row['is'] {
    if (registry === LOCAL) return 'pushed'
    const images = imagesOf({ name, digest, tag })
    return this.#options.pin().some((glob) => images.some((it) => pins(glob, it))) ? 'pinned' : 'cached'
  }

  async #weighed(rows: readonly Row[]): Promise<ListedImage[]> {
    const { inventory, latest, now } = this.#options
    const weights = await inventory.weights([...new Set(rows.map(({ digest }) => digest))])
    const byDigest = new Map(weights.map((it) => [it.digest, it]))
    const at = now()
    return rows.map((row) => {
      const weight = byDigest.get(row.digest)
      if (weight === undefined) return { ...row, bytes: 0 }
      const { bytes, pulledAt, storedAt } = weight
      return { ...row, bytes, pulledMsAgo: at - latest(row.digest, pulledAt), ageMs: at - storedAt }
    })
  }
}

/** Merges two sorted lists. */
async function* merged(
  left: AsyncGenerator<RepositoryKey>,
  right: AsyncGenerator<RepositoryKey>,
): AsyncGenerator<RepositoryKey> {
  let [a, b] = [await left.next(), await right.next()]
  while (a.done !== true || b.done !== true) {
    if (b.done === true || (a.done !== true && pullName(a.value) < pullName(b.value))) {
      if (a.done !== true) yield a.value
      a = await left.next()
    } else {
      yield b.value
      b = await right.next()
    }
  }
}

/** Whether an image of that name may match. */
function mayHold(name: string, pattern: string | undefined): boolean {
  if (pattern === undefined || pattern.includes('*')) return true
  return name.startsWith(pattern) || pattern.startsWith(name)
}

function fits(row: Row, pattern: string | undefined): boolean {
  if (pattern === undefined) return true
  const glob = pattern.includes('*')
  return imagesOf(row).some((it) => (glob ? pins(pattern, it) : it.startsWith(pattern)))
}

/** The names of an image that a glob or a prefix is matched against. */
function imagesOf({ name, tag, digest }: Pick<Row, 'name' | 'tag' | 'digest'>): string[] {
  return [...(tag === undefined ? [] : [`${name}:${tag}`]), `${name}@${digest}`]
}
