/**
 * A real client of the field, and what one can ask it to do with an image behind the mirror.
 */
import assert from 'node:assert/strict'
import type { Test } from 'tap'
import { succeed } from '../../support/programs.ts'
import type { Goods } from './goods.ts'

/** Where a command finds what, in one cell of the table. */
export interface Place {
  /** Of entrepot: `127.0.0.1:5000`. */
  readonly host: string
  /** The registry that it mirrors, and the repository there. */
  readonly registry: string
  readonly repository: string
  /** The repository by the prefix form: `127.0.0.1:5000/quay.io/team/app`. */
  readonly name: string
  readonly goods: Goods
  /** Empty, and gone afterwards. */
  readonly dir: string
  /** Whether the mirror could ever ask for lists: if not, what it answers may lack some of what is upstream. */
  readonly complete: boolean
}

export interface Verb {
  readonly kind: 'pull' | 'inspect' | 'list' | 'verify'
  /** The command, shortened. */
  readonly what: string
  /** It wants a chart, and the repository holds nothing else. */
  readonly chart?: true
  /** Fails unless the client got what it asked for. */
  run(place: Place): Promise<unknown>
}

export interface RealClient {
  readonly name: string
  /** What is missing to run it here, or false. */
  readonly missing: string | false
  open(t: Test): Promise<readonly Verb[]>
}

/** A client gives up before this. */
const PATIENCE_MS = 60_000

/** Runs a command of a client in a home of its own: no setting of the machine's is read, none is left there. */
export function command(
  program: string,
  args: readonly string[],
  { dir }: Pick<Place, 'dir'>,
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  return succeed(program, args, {
    cwd: dir,
    env: { HOME: dir, XDG_CONFIG_HOME: undefined, XDG_RUNTIME_DIR: undefined, ...env },
    timeoutMs: PATIENCE_MS,
  })
}

/** That a list has all of these, or, where the mirror could not know better, some and nothing else. */
export function lists(listed: readonly string[], all: readonly string[], { complete }: Place): void {
  if (complete) {
    assert.deepEqual(
      all.filter((it) => !listed.includes(it)),
      [],
      `not in the list: ${listed.join(' ')}`,
    )
    return
  }
  const here = listed.filter((it) => all.includes(it))
  assert.ok(here.length > 0, `nothing of ${all.join(' ')} is in the list: ${listed.join(' ')}`)
}
