/**
 * TLS certificate and key, reloaded when their files change.
 *
 * A pair is used only when it is complete and fits together; until then the previous one stays in use. The files are
 * polled, because watchers miss the symbolic links by which Kubernetes replaces secrets.
 */
import { X509Certificate } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import type { Server } from 'node:https'
import { createSecureContext } from 'node:tls'
import type { Logger } from 'pino'
import type { Metrics } from '../telemetry/metrics.ts'

export interface TlsFiles {
  /** Path of the certificate chain, PEM. */
  readonly cert: string
  readonly key: string
}

interface TlsPair {
  readonly cert: Buffer
  readonly key: Buffer
  /** Clients reject the certificate from this date on; undefined: it cannot be read. */
  readonly notAfter: Date | undefined
}

/** State of the certificate in `/readyz`. */
export interface CertificateHealth {
  /** ISO 8601. */
  readonly notAfter: string
  readonly expired: boolean
  /** A sentence for the operator if the certificate has to be renewed. */
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

/** Its message is a sentence for the operator who wrote the configuration. */
export class TlsError extends Error {
  override readonly name = 'TlsError'
}

/** @throws TlsError when a file cannot be read, or they are not a certificate and its key */
async function loadTlsPair(files: TlsFiles): Promise<TlsPair> {
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

export class ServerCertificate {
  readonly #files: TlsFiles
  readonly #server: Server
  readonly #log: Logger
  readonly #metric: Metrics['tlsCertificateNotAfter']
  /** Undefined: no certificate is loaded, or its end cannot be read. */
  #notAfter: Date | undefined
  /** Signature of the files at the last load. */
  #seen: string | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(files: TlsFiles, server: Server, { log, metrics }: { log: Logger; metrics: Metrics }) {
    this.#files = files
    this.#server = server
    this.#log = log
    this.#metric = metrics.tlsCertificateNotAfter
  }

  health(now: number): CertificateHealth | undefined {
    return this.#notAfter && certificateHealth(this.#notAfter, now)
  }

  /** @throws TlsError; the previous pair then stays in use */
  async use(isWanted: () => boolean = () => true): Promise<void> {
    // The signature is taken before the read, so that the next poll sees a change that comes between.
    this.#seen = await signature(this.#files)
    const { cert, key, notAfter } = await loadTlsPair(this.#files)
    if (!isWanted()) return
    this.#server.setSecureContext({ cert, key })
    this.#notAfter = notAfter
    if (notAfter === undefined) this.#metric.remove()
    else this.#metric.set(notAfter.getTime() / 1000)
  }

  /** Polls the files; a change is loaded once, even if that fails. */
  watch(pollMs: number): void {
    let busy = false
    const look = async (): Promise<void> => {
      if ((await signature(this.#files)) !== this.#seen) await this.#replace()
      busy = false
    }
    this.#timer = setInterval(() => {
      if (busy) return
      busy = true
      void look()
    }, pollMs).unref()
  }

  async #replace(): Promise<void> {
    const isWatching = (): boolean => this.#timer !== undefined
    const { cert } = this.#files
    try {
      await this.use(isWatching)
      if (isWatching()) this.#log.info({ cert }, 'certificate reloaded')
    } catch (err) {
      if (isWatching()) this.#log.error({ err, cert }, 'certificate not reloaded, the old one stays')
    }
  }

  stopWatching(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

/** The chain begins with the server's own certificate, which is the one that X509Certificate reads. */
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
