/**
 * The official conformance suite of the distribution specification, built by `go` from the version pinned in
 * conformance/go.mod (what it downloads is checked against conformance/go.sum), and kept in the user's cache.
 */
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { buildOnce } from '../support/built.ts'
import { run, shortDir, succeed } from '../support/programs.ts'

const PACKAGE = 'github.com/opencontainers/distribution-spec/conformance'
const PINNED = join(import.meta.dirname, 'conformance')
const FILES = ['go.mod', 'go.sum']

/** What the suite says of one of its tests. */
export interface Spec {
  /** The headings above it, from its workflow on, and its own words. */
  readonly title: string
  readonly state: string
  readonly failure: string
}

export interface SuiteResult {
  readonly code: number | null
  readonly specs: readonly Spec[]
  readonly failed: readonly string[]
  readonly skipped: readonly string[]
  readonly output: string
}

/** @returns the suite's program; the first call on a machine downloads and compiles for a minute */
export async function buildSuite(): Promise<string> {
  const pin = createHash('sha256')
  for (const file of FILES) pin.update(readFileSync(join(PINNED, file)))
  const folder = await buildOnce(`conformance-${pin.digest('hex').slice(0, 16)}`, async (dir) => {
    for (const file of FILES) copyFileSync(join(PINNED, file), join(dir, file))
    await succeed('go', ['test', '-c', '-o', 'suite.test', PACKAGE], {
      cwd: dir,
      // Nothing but Go itself is needed then, and nothing but the pinned versions is taken.
      env: { CGO_ENABLED: '0', GOFLAGS: '-mod=readonly', GOWORK: 'off', GOTOOLCHAIN: 'local' },
      timeoutMs: 240_000,
    })
  })
  return join(folder, 'suite.test')
}

/**
 * @param settings `OCI_…`, as the suite's README has them
 * @param without the headings of tests to leave out; they count as skipped
 */
export async function runSuite(
  t: Test,
  program: string,
  settings: Record<string, string>,
  without: readonly string[] = [],
): Promise<SuiteResult> {
  const report = join(shortDir(t), 'report.json')
  const bare = Object.keys(process.env).filter((name) => name.startsWith('OCI_'))
  const unset = Object.fromEntries(bare.map((name) => [name, undefined]))
  const args = ['--ginkgo.no-color', `--ginkgo.json-report=${report}`]
  const { code, stdout, stderr } = await run(
    program,
    [...args, ...without.map((words) => `--ginkgo.skip=${words}`)],
    { env: { ...unset, OCI_REPORT_DIR: 'none', ...settings } },
  )
  const specs = existsSync(report) ? readReport(report) : []
  const titles = (state: (it: Spec) => boolean): string[] => specs.filter(state).map(({ title }) => title)
  return {
    code,
    specs,
    failed: titles(({ state }) => state !== 'passed' && state !== 'skipped'),
    skipped: titles(({ state }) => state === 'skipped'),
    output: stdout + stderr,
  }
}

function readReport(file: string): Spec[] {
  const [suite] = JSON.parse(readFileSync(file, 'utf8')) as [
    {
      SpecReports: {
        ContainerHierarchyTexts: string[] | null
        LeafNodeType: string
        LeafNodeText: string
        State: string
        Failure?: { Message: string }
      }[]
    },
  ]
  return suite.SpecReports.filter(({ LeafNodeType }) => LeafNodeType === 'It').map((it) => ({
    title: [...(it.ContainerHierarchyTexts ?? []).slice(1), it.LeafNodeText].join(' / '),
    state: it.State,
    failure: it.Failure?.Message ?? '',
  }))
}
