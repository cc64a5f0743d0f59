/**
 * Registries that no package brings: built by `go install`, once, into the user's cache folder.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { homedir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { findCommand } from '../../test/support/programs.ts'

const PROGRAMS = {
  distribution: { file: 'registry', module: 'github.com/distribution/distribution/v3/cmd/registry@v3.1.1' },
  zot: { file: 'zot', module: 'zotregistry.dev/zot/v2/cmd/zot@v2.1.21' },
}
export type GoProgram = keyof typeof PROGRAMS
export const GO_PROGRAMS = Object.keys(PROGRAMS) as GoProgram[]

/** zot has hundreds of dependencies. */
const BUILD_MS = 900_000

/** Who has failed once fails for good: nobody waits for it again in this process. */
const builds = new Map<GoProgram, Promise<string>>()

/** @returns its file; undefined when it was never built here */
export function builtProgram(name: GoProgram): string | undefined {
  const file = path.join(folderOf(name), PROGRAMS[name].file)
  return existsSync(file) ? file : undefined
}

/** @returns its file, which may take minutes to build */
export function goProgram(name: GoProgram): Promise<string> {
  const building = builds.get(name) ?? build(name)
  builds.set(name, building)
  return building
}

async function build(name: GoProgram): Promise<string> {
  const { file, module } = PROGRAMS[name]
  const built = builtProgram(name)
  if (built !== undefined) return built
  const go = findCommand('go')
  if (go === undefined) throw new Error('it is not built here, and there is no Go')
  const folder = folderOf(name)
  mkdirSync(folder, { recursive: true })
  const env = { ...process.env, GOBIN: folder }
  await promisify(execFile)(go, ['install', module], { env, timeout: BUILD_MS }).catch((error: unknown) => {
    const { stderr } = error as { stderr?: string }
    throw new Error(stderr?.trim().split('\n').at(-1) ?? String(error))
  })
  return path.join(folder, file)
}

function folderOf(name: GoProgram): string {
  const cache = process.env['XDG_CACHE_HOME'] ?? path.join(homedir(), '.cache')
  return path.join(cache, 'entrepot-bench', encodeURIComponent(PROGRAMS[name].module))
}
