/**
 * The certificate and its key, as files that are replaced while we run.
 *
 * A pair is used only when it is complete and fits together; until then the one before stays in use. The
 * files are looked at again and again: watchers miss the symbolic links by which Kubernetes replaces secrets.
 */
import { readFile, stat } from 'node:fs/promises'
import { createSecureContext } from 'node:tls'

export interface TlsFiles {
  /** Path of the certificate chain, PEM. */
  readonly cert: string
  readonly key: string
}

interface TlsPair {
  readonly cert: Buffer
  readonly key: Buffer
}

/** A sentence for the person who wrote the configuration. */
export class TlsError extends Error {
  override readonly name = 'TlsError'
}

/** @throws TlsError when one cannot be read, or they are not a certificate and its key */
export async function loadTlsPair(files: TlsFiles): Promise<TlsPair> {
  const [cert, key] = await Promise.all([read('certificate', files.cert), read('key', files.key)])
  try {
    createSecureContext({ cert, key })
  } catch (cause) {
    throw new TlsError(
      `${files.cert} and ${files.key} are not a certificate and its key: ${message(cause)}`,
      {
        cause,
      },
    )
  }
  return { cert, key }
}

/**
 * Calls one of the two whenever the files have changed, once per change.
 *
 * @returns stops it
 */
export function watchTlsPair(
  files: TlsFiles,
  pollMs: number,
  onPair: (pair: TlsPair) => void,
  onError: (error: unknown) => void,
): () => void {
  let seen: string | undefined
  let stopped = false
  let busy = false
  const look = async (): Promise<void> => {
    const now = await signature(files)
    const first = seen === undefined
    if (now === seen) return
    seen = now
    if (first) return
    try {
      const pair = await loadTlsPair(files)
      if (!stopped) onPair(pair)
    } catch (error) {
      if (!stopped) onError(error)
    }
  }
  const tick = (): void => {
    if (busy) return
    busy = true
    void look().finally(() => {
      busy = false
    })
  }
  tick()
  const timer = setInterval(tick, pollMs).unref()
  return () => {
    stopped = true
    clearInterval(timer)
  }
}

async function signature(files: TlsFiles): Promise<string> {
  const facts = await Promise.all(
    [files.cert, files.key].map(async (path) => {
      try {
        const { ino, size, mtimeMs, ctimeMs } = await stat(path)
        return [ino, size, mtimeMs, ctimeMs].join()
      } catch (error) {
        return (error as NodeJS.ErrnoException).code ?? 'unreadable'
      }
    }),
  )
  return facts.join(' ')
}

async function read(what: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (cause) {
    throw new TlsError(`cannot read the ${what} ${path}: ${message(cause)}`, { cause })
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
