/**
 * A backup back into the local repositories of a folder, empty or in use.
 *
 * First all of the archive is read and verified; then each repository comes back at once, in the same index and
 * under the same locks as a push. What is there already stays: a second time changes nothing.
 */
import type { RepositoryName } from '../oci/reference.ts'
import { Refused } from '../registry/refused.ts'
import type { Bytes } from '../store/blob-store.ts'
import type { SavedRepository } from './layout.ts'
import { Received, type ReceiveTools } from './receive-archive.ts'
import { restoreRepository, type RestoreEvent, type RestoreTools } from './restore-repository.ts'

interface RestoreArguments {
  readonly from: string
  readonly overwrite: boolean
  readonly allowDenied?: boolean | undefined
}

interface RestoreOptions extends RestoreTools, Omit<ReceiveTools, 'signal'> {
  /** Names that nobody could pull from here. */
  readonly hidden: (names: readonly RepositoryName[]) => readonly string[]
  /** Why no push of that name would be taken, whoever sent it: the name is reserved, or was pulled from elsewhere. */
  readonly denied: (name: RepositoryName) => Promise<string | undefined>
  /** @throws the system's error */
  readonly open: (path: string) => Promise<{ readonly size: Bytes; readonly chunks: AsyncIterable<Buffer> }>
}

const TICK_MS = 200

/** Names that are told of many. */
const SOME = 10

/**
 * @param args.from an absolute path
 * @param args.allowDenied also names that no push could take
 */
export async function* restore(
  options: RestoreOptions,
  { from, overwrite, allowDenied = false }: RestoreArguments,
  signal: AbortSignal,
): AsyncGenerator<RestoreEvent, void, undefined> {
  const { size: totalBytes, chunks } = await options.open(from).catch((cause: unknown) => {
    throw new Refused(`${from} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    })
  })
  await using received = new Received({ ...options, signal })
  const counter = { bytes: 0 }
  const reading = received.read(from, counted(chunks, counter))
  try {
    for (let done = false; !done;) {
      done = await Promise.race([reading.then(() => true), tick()])
      yield { progress: { bytes: counter.bytes, totalBytes } }
    }
  } finally {
    // What it has taken is taken back only when it takes no more.
    await reading.catch(() => undefined)
  }
  const { repositories } = await reading
  const hidden = options.hidden(repositories.map(({ name }) => name))
  if (hidden.length > 0) {
    throw new Refused(
      `the configured upstreams would hide ${hidden.slice(0, SOME).join(', ')}; nothing was restored`,
    )
  }
  if (!allowDenied) await assertTakable(options, repositories)
  for (const saved of repositories) {
    signal.throwIfAborted()
    yield* await restoreRepository(options, received, saved, { overwrite, signal })
  }
  received.commit()
}

/** @throws Refused when what comes back would hide images of an upstream */
async function assertTakable(
  { denied }: RestoreOptions,
  repositories: readonly SavedRepository[],
): Promise<void> {
  const reasons: string[] = []
  for (const { name } of repositories) {
    const why = await denied(name)
    if (why !== undefined) reasons.push(why)
  }
  if (reasons.length === 0) return
  const some = reasons.slice(0, SOME).join('; ') + (reasons.length > SOME ? '; …' : '')
  throw new Refused(`${some}; --allow-denied restores all the same; nothing was restored`)
}

async function* counted(
  chunks: AsyncIterable<Buffer>,
  counter: { bytes: Bytes },
): AsyncGenerator<Buffer, void, undefined> {
  for await (const chunk of chunks) {
    counter.bytes += chunk.length
    yield chunk
  }
}

function tick(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), TICK_MS))
}
