/**
 * Registries that no package brings: built by `go install`, once, into the user's cache folder.
 */
import { findInstalled, goInstall, type GoInstall } from '../../test/support/go.ts'
import { findCommand } from '../../test/support/programs.ts'

const PROGRAMS = {
  distribution: {
    module: 'github.com/distribution/distribution/v3',
    version: 'v3.1.1',
    commands: { registry: 'cmd/registry' },
  },
  zot: { module: 'zotregistry.dev/zot/v2', version: 'v2.1.21', commands: { zot: 'cmd/zot' } },
} satisfies Record<string, GoInstall>
const FILES = { distribution: 'registry', zot: 'zot' } as const
export type GoProgram = keyof typeof PROGRAMS
export const GO_PROGRAMS = Object.keys(PROGRAMS) as GoProgram[]

/** Who has failed once fails for good: nobody waits for it again in this process. */
const builds = new Map<GoProgram, Promise<string>>()

/** @returns its file; undefined when it was never built here */
export function builtProgram(name: GoProgram): string | undefined {
  return findInstalled(PROGRAMS[name], FILES[name])
}

/** @returns its file, which may take minutes to build */
export function goProgram(name: GoProgram): Promise<string> {
  const building = builds.get(name) ?? build(name)
  builds.set(name, building)
  return building
}

async function build(name: GoProgram): Promise<string> {
  const built = builtProgram(name)
  if (built !== undefined) return built
  if (findCommand('go') === undefined) throw new Error('it is not built here, and there is no Go')
  const folder = await goInstall(PROGRAMS[name]).catch((error: unknown) => {
    throw new Error(String(error).trim().split('\n').at(-1))
  })
  return `${folder}/${FILES[name]}`
}
