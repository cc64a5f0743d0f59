/**
 * Programs that tests compile themselves: each is made once on a machine, and kept in the user's cache folder.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

function cacheFolder(): string {
  return join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'entrepot-programs')
}

/** The folder of what was built under that name before. */
export function findBuilt(name: string): string | undefined {
  const folder = join(cacheFolder(), name)
  return existsSync(folder) ? folder : undefined
}

/**
 * @param name says everything that the result depends on: what has that name is never built again
 * @param build fills an empty folder; when it fails nothing is kept
 */
export async function buildOnce(name: string, build: (dir: string) => Promise<void>): Promise<string> {
  const before = findBuilt(name)
  if (before !== undefined) return before
  const cache = cacheFolder()
  mkdirSync(cache, { recursive: true })
  // It is a folder of its own until it is whole: another run may build the same at the same time.
  const dir = mkdtempSync(join(cache, 'build-'))
  const folder = join(cache, name)
  try {
    await build(dir)
    renameSync(dir, folder)
  } catch (error) {
    // Whoever was first has brought the same.
    if (!existsSync(folder)) throw error
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  return folder
}
