/**
 * The certificate and its key, as files that are replaced while we run.
 *
 * A pair is used only when it is complete and fits together; until then the one before stays in use. The
 * files are looked at again and again: watchers miss the symbolic links by which Kubernetes replaces secrets.
 */
import { X509Certificate } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { createSecureContext } from 'node:tls'

export interface TlsFiles {
  /** Path of the certificate chain, PEM. */
  readonly cert: string
  readonly key: string
}

export interface TlsPair {
  readonly cert: Buffer
  readonly key: Buffer
  /** From then on clients refuse it; undefined: nobody can tell. */
  readonly notAfter: Date | undefined
}

/** What is said of the certificate to whoever watches. */
export interface CertificateHealth {
  /** ISO 8601. */
  readonly notAfter: string
  readonly expired: boolean
  /** A sentence where somebody should see to it. */
  readonly message: string | undefined
}

const SOON_MS = 14 * 86_400_000

export function certificateHealth(notAfter: Date, now: number): CertificateHealth {
  const left = notAfter.getTime() - now
  const date = notAfter.toISOString()
  const days = Math.floor(left / 86_400_000)
  const message =
    left <= 0
      ? `the certificate of server.tls.cert has expired on ${date}`
      : left < SOON_MS
        ? `the certificate of server.tls.cert expires on ${date}, in ${days < 1 ? 'less than a day' : days === 1 ? '1 day' : `${days} days`}`
        : undefined
  return { notAfter: date, expired: left <= 0, message }
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
  return { cert, key, notAfter: notAfterOf(cert) }
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

/** Of the server's own, which comes first. */
function notAfterOf(cert: Buffer): Date | undefined {
  try {
    return new X509Certificate(cert).validToDate
  } catch {
    return undefined
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
