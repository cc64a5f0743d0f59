/**
 * Reads the contents of a backup out of its `entrepot.json`. In a thread of its own: that of a large registry takes
 * seconds, and that of somebody who means harm as long.
 *
 * Every element is looked at as it is read: nothing is held of a document that is not what we write.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import { parseDigest, type Digest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { isObject, JsonError, parseJsonObject, type JsonObject, type Selection } from '../../oci/json.ts'
import { parseRepositoryName, parseTag } from '../../oci/reference.ts'
import { VERSION, type SavedBlob, type SavedManifest, type SavedRepository } from './format.ts'
import type { ContentsPiece, ContentsWork } from './read-contents.ts'

/** Elements of one message: taking it costs the other side less than a millisecond. */
const TOGETHER = 500

/** An empty one costs the other side a hundred bytes, and whoever made it fifty. */
const MOST_REPOSITORIES = 1_000_000

/** Of our documents an element or a member takes more bytes than that. */
const LEAST_ITEM_BYTES = 10

class NotOurs extends Error {}

const { bytes, room } = workerData as ContentsWork

/** What was read since the last message, in its order. */
let pieces: ContentsPiece[] = []
let elements = 0

function tell(piece: ContentsPiece, count = 1): void {
  pieces.push(piece)
  elements += count
  if (elements >= TOGETHER) send()
}

function send(): void {
  // What is told faster than it is taken would wait in memory, and be taken all at once.
  while (Atomics.load(room, 0) <= 0) Atomics.wait(room, 0, 0)
  Atomics.sub(room, 0, 1)
  parentPort?.postMessage(pieces)
  pieces = []
  elements = 0
}

/** Elements of one list, on their way. */
class Batch<T> {
  readonly #tell: (some: T[]) => void
  #some: T[] = []

  constructor(tell: (some: T[]) => void) {
    this.#tell = tell
  }

  add(one: T): void {
    this.#some.push(one)
    if (this.#some.length >= TOGETHER) this.flush()
  }

  flush(): void {
    if (this.#some.length > 0) this.#tell(this.#some)
    this.#some = []
  }
}

const batches = {
  tags: new Batch<SavedRepository['tags'][number]>((tags) => tell({ tags }, tags.length)),
  manifests: new Batch<SavedManifest>((manifests) => tell({ manifests }, manifests.length)),
  blobs: new Batch<SavedBlob>((blobs) => tell({ blobs }, blobs.length)),
  lost: new Batch<Digest>((lost) => tell({ lost }, lost.length)),
}

let repositories = 0

function members(...names: string[]): Selection {
  return { members: Object.fromEntries(names.map((name) => [name, 'scalar'])) }
}

const REPOSITORY: Selection = {
  members: {
    name: 'scalar',
    deletedAt: 'scalar',
    tags: {
      each: members('tag', 'digest'),
      take: (it) => batches.tags.add(tagOf(object(it))),
    },
    manifests: {
      each: members('digest', 'size', 'mediaType'),
      take: (it) => batches.manifests.add(manifestOf(object(it))),
    },
    blobs: {
      each: members('digest', 'size'),
      take: (it) => batches.blobs.add(blobOf(object(it))),
    },
  },
}

const CONTENTS: Selection = {
  members: {
    version: 'scalar',
    repositories: { each: REPOSITORY, take: (it) => takeRepository(object(it)) },
    lost: { each: 'scalar', take: (it) => batches.lost.add(parseDigest(text(it))) },
  },
}

function takeRepository({ name, deletedAt, tags, manifests, blobs }: JsonObject): void {
  for (const list of [tags, manifests, blobs]) assertList(list)
  batches.tags.flush()
  batches.manifests.flush()
  batches.blobs.flush()
  const repository = parseRepositoryName(text(name))
  repositories += 1
  if (repositories > MOST_REPOSITORIES) throw new NotOurs()
  tell({ repository, ...(deletedAt === undefined ? {} : { deletedAt: number(deletedAt) }) })
}

function tagOf({ tag, digest }: JsonObject): SavedRepository['tags'][number] {
  return { tag: parseTag(text(tag)), digest: parseDigest(text(digest)) }
}

function blobOf({ digest, size }: JsonObject): SavedBlob {
  return { digest: parseDigest(text(digest)), size: number(size) }
}

function manifestOf(it: JsonObject): SavedManifest {
  const { digest, size } = blobOf(it)
  if (size > MAX_MANIFEST_BYTES) throw new NotOurs()
  return { digest, size, mediaType: text(it['mediaType']) }
}

function object(value: unknown): JsonObject {
  if (!isObject(value)) throw new NotOurs()
  return value
}

function assertList(value: unknown): void {
  if (!Array.isArray(value)) throw new NotOurs()
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw new NotOurs()
  return value
}

function number(value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw new NotOurs()
  return value as number
}

/** @returns whether that is what we write */
function read(): boolean {
  try {
    const most = 100 + bytes.length / LEAST_ITEM_BYTES
    const { version, repositories, lost } = parseJsonObject(bytes, most, CONTENTS)
    if (version !== VERSION) return false
    for (const list of [repositories, lost]) assertList(list)
    batches.lost.flush()
    return true
  } catch (error) {
    if (error instanceof JsonError || error instanceof NotOurs || error instanceof OciError) return false
    throw error
  }
}

tell({ ours: read() })
send()
