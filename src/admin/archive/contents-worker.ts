/**
 * Worker thread that parses `entrepot.json`, the contents of a backup: a large or malicious one takes seconds.
 *
 * Every element is checked as it is read, so a document that entrepot did not write takes no memory.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { MAX_MANIFEST_BYTES } from '../../oci/descriptor.ts'
import { parseDigest } from '../../oci/digest.ts'
import { OciError } from '../../oci/errors.ts'
import { isObject, JsonError, parseJsonObject, type JsonObject, type Selection } from '../../oci/json.ts'
import { parseRepositoryName, parseTag } from '../../oci/reference.ts'
import { VERSION, type SavedBlob, type SavedManifest, type SavedRepository } from './format.ts'
import type { ContentsPiece, ContentsWork } from './read-contents.ts'

/** Pieces per message: the main thread handles them in about a millisecond. */
const TOGETHER = 500

/** An empty repository takes a hundred bytes of the main thread's memory, and fifty of the document. */
const MOST_REPOSITORIES = 1_000_000

/** No element or member of a document that entrepot writes takes fewer bytes. */
const LEAST_ITEM_BYTES = 10

class NotOurs extends Error {}

const { bytes, credits: room } = workerData as ContentsWork

/** The pieces read since the last message, in the document's order. */
let pieces: ContentsPiece[] = []

function tell(piece: ContentsPiece): void {
  pieces.push(piece)
  if (pieces.length >= TOGETHER) send()
}

function send(): void {
  // Backpressure: faster messages would pile up in the main thread's memory, and be handled in one go.
  while (Atomics.load(room, 0) <= 0) Atomics.wait(room, 0, 0)
  Atomics.sub(room, 0, 1)
  parentPort?.postMessage(pieces)
  pieces = []
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
      take: (it) => tell({ tag: tagOf(object(it)) }),
    },
    manifests: {
      each: members('digest', 'size', 'mediaType'),
      take: (it) => tell({ manifest: manifestOf(object(it)) }),
    },
    blobs: {
      each: members('digest', 'size'),
      take: (it) => tell({ blob: blobOf(object(it)) }),
    },
  },
}

const CONTENTS: Selection = {
  members: {
    version: 'scalar',
    repositories: { each: REPOSITORY, take: (it) => takeRepository(object(it)) },
    lost: { each: 'scalar', take: (it) => tell({ lost: parseDigest(text(it)) }) },
  },
}

function takeRepository({ name, deletedAt, tags, manifests, blobs }: JsonObject): void {
  for (const list of [tags, manifests, blobs]) assertList(list)
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

/** @returns whether entrepot wrote the document */
function read(): boolean {
  try {
    const most = 100 + bytes.length / LEAST_ITEM_BYTES
    const { version, repositories, lost } = parseJsonObject(bytes, most, CONTENTS)
    if (version !== VERSION) return false
    for (const list of [repositories, lost]) assertList(list)
    return true
  } catch (error) {
    if (error instanceof JsonError || error instanceof NotOurs || error instanceof OciError) return false
    throw error
  }
}

tell({ ours: read() })
send()
