/**
 * Puts an index in the place of one that was lost, when a person has said so. What was there is kept beside it.
 *
 * One that is whole and of this folder, but older than its files, goes on: it knows names that no file tells. For all
 * others there is a new one. Either comes into being now: files that it does not know are from before it, and are not
 * collected by its word; what it would let go of begins its grace period anew, for it may have been wanted since. Until
 * `finishIndex` it is no more to be started with than the one that was lost.
 */
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import { Kysely } from 'kysely'
import { assertHasTables, readIdentity, readMark, syncFolder, writeMark } from './index-identity.ts'
import { LOCAL, type EpochMs } from '../metadata.ts'
import { migrate } from '../sql/migrations.ts'
import type { Tables } from '../sql/schema.ts'
import { openWriter, sqliteDialect, type Statements } from './connection.ts'

/** @returns the folder in which that is kept which was there */
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

/** @returns false when that index is of no use here */
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
    // Without its version nobody knows what tables these are.
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
    // All of it is in the main file then.
    opened?.close()
  }
}

function beginGraceAnew(opened: Statements, now: EpochMs): void {
  opened.run('update manifest set released_at = ? where released_at is not null', [now])
  opened.run('update repository_blob set linked_at = ? where repository > ? and repository < ?', [
    now,
    `${LOCAL}/`,
    // `0` is what follows a slash.
    `${LOCAL}0`,
  ])
  opened.run("update blob set stored_at = ? where mirrored_by = ''", [now])
}
