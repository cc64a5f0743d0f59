/**
 * Replaces a lost index, when the operator has said so. The lost one is kept beside it.
 *
 * An index that is whole and of this folder, but older than its files, goes on: it knows names that no file tells.
 * Any other is replaced by a new one. Either counts as created now: files that it does not know are older, and are
 * not collected; its garbage begins a new grace period, for a client may have needed it since. Until `finishIndex`
 * the server starts with neither it nor the lost one.
 */
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import { Kysely } from 'kysely'
import { assertHasTables, readIdentity, readMark, syncFolder, writeMark } from './index-identity.ts'
import { LOCAL, type EpochMs } from '../metadata.ts'
import { migrate } from '../sql/migrations.ts'
import type { Tables } from '../sql/schema.ts'
import { openWriter, sqliteDialect, type Statements } from './connection.ts'

/** @returns the folder that keeps the lost index */
export async function replaceLostIndex(database: string): Promise<string> {
  const root = path.dirname(database)
  const kept = path.join(root, `lost-index-${new Date().toISOString().replace(/[^0-9TZ]/g, '')}`)
  mkdirSync(kept, { mode: 0o700 })
  const files = [database, `${database}-wal`]
  for (const file of files.filter((it) => existsSync(it))) {
    copyFileSync(file, path.join(kept, path.basename(file)))
  }
  syncFolder(root)
  const mark = readMark(root)
  writeMark(root, { identity: 'none', generation: 0, ...mark, unfinished: true })
  if (mark !== undefined && (await goOn(database, mark))) return kept
  for (const file of [...files, `${database}-shm`]) rmSync(file, { force: true })
  return kept
}

/** @returns false when the old index is of no use here */
async function goOn(
  database: string,
  mark: { readonly identity: string; readonly generation: number },
): Promise<boolean> {
  if (!existsSync(database)) return false
  let opened: Statements | undefined
  try {
    opened = openWriter(database)
    const there = readIdentity(opened)
    if (there !== undefined && there.identity !== mark.identity) return false
    const [state] = opened.prepare('pragma quick_check(1)').all([]) as { quick_check: string }[]
    if (state?.quick_check !== 'ok') return false
    const now = Date.now()
    // Without a version nothing tells the schema of these tables.
    if (opened.prepare('select version from schema_version').all([]).length === 0) return false
    await migrate(new Kysely<Tables>({ dialect: sqliteDialect(opened) }), now)
    assertHasTables(database, opened)
    opened.run('begin')
    beginGraceAnew(opened, now)
    const generation = Math.max(mark.generation, there?.generation ?? 0) + 1
    opened.run('update index_identity set identity = ?, generation = ?, created_at = ?', [
      mark.identity,
      generation,
      now,
    ])
    opened.run('commit')
    return true
  } catch {
    return false
  } finally {
    // The close writes all of the log to the main file.
    opened?.close()
  }
}

function beginGraceAnew(opened: Statements, now: EpochMs): void {
  opened.run('update manifest set released_at = ? where released_at is not null', [now])
  opened.run('update repository_blob set linked_at = ? where repository > ? and repository < ?', [
    now,
    `${LOCAL}/`,
    // `0` is the character after the slash: the end of all local repositories.
    `${LOCAL}0`,
  ])
  opened.run("update blob set stored_at = ? where mirrored_by = ''", [now])
}
