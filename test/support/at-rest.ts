/**
 * What lies in a `storage.root` that nobody uses at the moment, and what of it is wrong.
 */
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { Content } from './images.ts'

export interface AtRest {
  /** Digests of the blobs that are there. */
  readonly blobs: ReadonlySet<string>
  /** Digest -> how many of its first bytes a sidecar vouches for. */
  readonly prefixes: ReadonlyMap<string, number>
  /** `<registry>/<repository> <digest>` */
  readonly links: ReadonlySet<string>
  /** `<registry>/<repository> <tag>` */
  readonly tags: ReadonlySet<string>
  /** Sentences; none when all is well. */
  readonly faults: readonly string[]
}

/** @param contents what may be there, by digest; of `known` ones the bytes are not looked at again */
export function lookAtRest(
  root: string,
  contents: ReadonlyMap<string, Content>,
  known: ReadonlySet<string> = new Set(),
): AtRest {
  const faults: string[] = []
  const blobs = blobsIn(root, contents, known, faults)
  const prefixes = vouchedIn(root, contents, faults)
  const { digests, links, tags } = indexOf(root, faults)
  for (const digest of digests)
    if (!blobs.has(digest)) faults.push(`the database is ahead of the disk: ${digest}`)
  return { blobs, prefixes, links, tags, faults }
}

export function partialsIn(root: string): string[] {
  const folder = path.join(root, 'ingest')
  return existsSync(folder) ? readdirSync(folder) : []
}

export function copyDatabase(from: string, to: string): void {
  // Nothing is lost between the two unless a checkpoint is made, and so few writes cause none.
  for (const name of ['metadata.sqlite', 'metadata.sqlite-wal']) {
    if (existsSync(path.join(from, name))) copyFileSync(path.join(from, name), path.join(to, name))
  }
}

function blobsIn(
  root: string,
  contents: ReadonlyMap<string, Content>,
  known: ReadonlySet<string>,
  faults: string[],
): Set<string> {
  const found = new Set<string>()
  const top = path.join(root, 'blobs')
  for (const entry of existsSync(top) ? readdirSync(top, { recursive: true, withFileTypes: true }) : []) {
    if (!entry.isFile()) continue
    const digest = `sha256:${entry.name}`
    found.add(digest)
    if (known.has(digest)) continue
    const there = readFileSync(path.join(entry.parentPath, entry.name))
    if (contents.get(digest)?.bytes.equals(there) !== true) faults.push(`a torn blob has its name: ${digest}`)
  }
  return found
}

function vouchedIn(
  root: string,
  contents: ReadonlyMap<string, Content>,
  faults: string[],
): Map<string, number> {
  const prefixes = new Map<string, number>()
  // Of uploads nobody knows yet what they will be.
  const ofDownloads = partialsIn(root).filter((it) => it.endsWith('.json') && !it.startsWith('upload-'))
  for (const name of ofDownloads) {
    const part = path.join(root, 'ingest', name.replace(/json$/, 'part'))
    if (!existsSync(part)) continue
    const { digest, extents } = parse(readFileSync(path.join(root, 'ingest', name), 'utf8')) ?? {}
    if (digest === undefined || extents === undefined) {
      faults.push(`${name} cannot be read`)
      continue
    }
    const bytes = contents.get(digest)?.bytes
    const there = readFileSync(part)
    for (const [start, end] of extents) {
      if (bytes?.subarray(start, end).equals(there.subarray(start, end)) === true) continue
      faults.push(`${name} vouches for bytes ${start} to ${end}, which are not there`)
    }
    const prefix = extents[0]?.[0] === 0 ? extents[0][1] : 0
    prefixes.set(digest, Math.max(prefix, prefixes.get(digest) ?? 0))
  }
  return prefixes
}

function parse(sidecar: string): { digest?: string; extents?: [number, number][] } | undefined {
  try {
    return JSON.parse(sidecar) as { digest: string; extents: [number, number][] }
  } catch {
    return undefined
  }
}

/** Looks at a copy: to open a database is to put it in order. */
function indexOf(
  root: string,
  faults: string[],
): { digests: Set<string>; links: Set<string>; tags: Set<string> } {
  const folder = mkdtempSync(path.join(tmpdir(), 'at-rest-'))
  copyDatabase(root, folder)
  const database = new DatabaseSync(path.join(folder, 'metadata.sqlite'))
  try {
    const column = (sql: string): Set<string> =>
      new Set(
        database
          .prepare(sql)
          .all()
          .map((row) => String(Object.values(row)[0])),
      )
    const [integrity] = column('pragma integrity_check')
    if (integrity !== 'ok') faults.push(`the database is corrupt: ${integrity}`)
    return {
      digests: column(
        'select digest from blob union select digest from blob_source union select digest from manifest',
      ),
      links: column("select repository || ' ' || digest from repository_blob"),
      tags: column("select repository || ' ' || tag from tag where deleted_at is null"),
    }
  } finally {
    database.close()
    rmSync(folder, { recursive: true })
  }
}
