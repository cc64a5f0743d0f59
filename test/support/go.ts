/**
 * Go programs in pinned versions: what no package brings, or not as new, is built by `go install`, once on a machine.
 *
 * What is downloaded is checked against Go's own checksum database.
 */
import { chmodSync, cpSync, readdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { buildOnce, findBuilt } from './built.ts'
import { succeed } from './programs.ts'

export interface GoInstall {
  readonly module: string
  readonly version: string
  /** Each command, and its folder in the module. */
  readonly commands: Readonly<Record<string, string>>
}

/** The largest have hundreds of dependencies. */
const BUILD_MS = 900_000

/** From this version on Go fetches by itself whatever newer one a module asks for. */
const SELF_SUFFICIENT = 21

/** As new as the newest of these programs asks for. */
const TOOLCHAIN = 'go1.26.8'

/** @returns the file of a command; undefined when it was never built here */
export function findInstalled(install: GoInstall, command: string): string | undefined {
  const folder = findBuilt(nameOf(install))
  return folder === undefined ? undefined : join(folder, command)
}

/** @returns the folder of its commands, which may take minutes to build */
export function goInstall(install: GoInstall): Promise<string> {
  const { module, version, commands } = install
  return buildOnce(nameOf(install), async (dir) => {
    const { go, env } = await newGo()
    const packages = Object.values(commands).map((path) => join(module, path))
    await succeed(go, ['install', ...packages.map((path) => `${path}@${version}`)], {
      cwd: dir,
      // No compiler of C is needed then, and no headers.
      env: { ...env, CGO_ENABLED: '0', GOWORK: 'off', GOBIN: dir },
      timeoutMs: BUILD_MS,
    })
  })
}

function nameOf({ commands, version }: GoInstall): string {
  return [...Object.keys(commands), version].join('-')
}

async function newGo(): Promise<{ go: string; env: NodeJS.ProcessEnv }> {
  const version = await succeed('go', ['env', 'GOVERSION'])
  const minor = Number(/^go1\.(\d+)/.exec(version)?.[1] ?? Infinity)
  if (minor >= SELF_SUFFICIENT) return { go: 'go', env: { GOTOOLCHAIN: 'auto' } }
  const root = await bringToolchain()
  return { go: join(root, 'bin/go'), env: { GOROOT: root } }
}

/** Does what newer versions of Go do: their toolchains are modules, whose zip files keep no modes and no go.mod. */
function bringToolchain(): Promise<string> {
  const platform = `linux-${process.arch === 'x64' ? 'amd64' : process.arch}`
  return buildOnce(`${TOOLCHAIN}-${platform}`, async (dir) => {
    const module = `golang.org/toolchain@v0.0.1-${TOOLCHAIN}.${platform}`
    const told = await succeed('go', ['mod', 'download', '-json', module], { cwd: dir, timeoutMs: BUILD_MS })
    cpSync((JSON.parse(told) as { Dir: string }).Dir, dir, { recursive: true })
    await succeed('chmod', ['-R', 'u+w', dir])
    for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' })) {
      const path = join(dir, name)
      if (name.endsWith('/_go.mod')) renameSync(path, path.replace(/_go\.mod$/, 'go.mod'))
      else if (/^(bin|pkg\/tool\/[^/]+)\/[^/]+$/.test(name)) chmodSync(path, 0o755)
    }
  })
}
