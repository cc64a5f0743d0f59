/**
 * Restore of a backup into the local repositories of a folder, empty or in use.
 *
 * First the archive is checked, then all of it is read and verified; then each repository is restored in one go, in
 * the same index and under the same locks as a push. It changes nothing that exists, so a second one is a no-op.
 */
import type { RepositoryName } from '../../oci/reference.ts'
import { OperatorError } from '../../base/operator-error.ts'
import type { SavedRepository } from './format.ts'
import { Received, type Archive, type ReceiveTools } from './read-archive.ts'
import { restoreRepository, type RestoreEvent, type RestoreTools } from './restore-repository.ts'
import { Turns } from '../../base/turns.ts'

interface RestoreArguments {
  readonly from: string
  readonly overwrite: boolean
  readonly allowDenied?: boolean | undefined
}

interface RestoreOptions extends RestoreTools, Omit<ReceiveTools, 'signal'> {
  /** Those of the names that no client could pull from here. */
  readonly hidden: (names: readonly RepositoryName[]) => readonly string[]
  /** Why a push of that name would be refused for every client: it is reserved, or was pulled from an upstream. */
  readonly denied: (name: RepositoryName) => Promise<string | undefined>
  /** @throws the system's error */
  readonly open: (path: string) => Promise<Archive & AsyncDisposable>
}

const TICK_MS = 200

/** The most names that an error gives as examples. */
const SOME = 10

/** Names that are checked before other requests have a turn on the event loop. */
const LOOKED_AT = 100

/**
 * @param args.from an absolute path
 * @param args.allowDenied also restores names that no push could take
 */
export async function* restore(
  options: RestoreOptions,
  { from, overwrite, allowDenied = false }: RestoreArguments,
  signal: AbortSignal,
): AsyncGenerator<RestoreEvent, void, undefined> {
  await using archive = await options.open(from).catch((cause: unknown) => {
    throw new OperatorError(
      `${from} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
      },
    )
  })
  await using received = new Received({ ...options, signal }, from, archive)
  const { repositories } = await received.look()
  await assertVisible(options, repositories, signal)
  if (!allowDenied) await assertTakable(options, repositories, signal)
  const reading = received.read()
  try {
    for (let done = false; !done;) {
      done = await Promise.race([reading.then(() => true), tick()])
      yield { progress: { bytes: done ? archive.size : received.position, totalBytes: archive.size } }
    }
  } finally {
    // Disposing `received` deletes what was stored, so storing must have ended before.
    await reading.catch(() => undefined)
  }
  const turns = new Turns()
  for (const saved of repositories) {
    signal.throwIfAborted()
    await turns.next()
    yield* await restoreRepository(options, received, saved, { overwrite, signal })
  }
  received.commit()
}

/** @throws OperatorError when clients could not pull some of it from here */
async function assertVisible(
  { hidden }: RestoreOptions,
  repositories: readonly SavedRepository[],
  signal: AbortSignal,
): Promise<void> {
  const found: string[] = []
  const turns = new Turns()
  for (let at = 0; at < repositories.length && found.length < SOME; at += LOOKED_AT) {
    signal.throwIfAborted()
    await turns.next()
    found.push(...hidden(repositories.slice(at, at + LOOKED_AT).map(({ name }) => name)))
  }
  if (found.length === 0) return
  throw new OperatorError(
    `the configured upstreams would hide ${found.slice(0, SOME).join(', ')}; nothing was restored`,
  )
}

/** @throws OperatorError when a restored repository would hide images of an upstream */
async function assertTakable(
  { denied }: RestoreOptions,
  repositories: readonly SavedRepository[],
  signal: AbortSignal,
): Promise<void> {
  const reasons: string[] = []
  const turns = new Turns()
  for (const { name } of repositories) {
    signal.throwIfAborted()
    await turns.next()
    const why = await denied(name)
    if (why !== undefined) reasons.push(why)
    if (reasons.length > SOME) break
  }
  if (reasons.length === 0) return
  const some = reasons.slice(0, SOME).join('; ') + (reasons.length > SOME ? '; …' : '')
  throw new OperatorError(`${some}; --allow-denied restores all the same; nothing was restored`)
}

function tick(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), TICK_MS))
}
