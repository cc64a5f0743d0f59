/**
 * The certificates that upstreams are believed by, read again when their files change: an authority's last for years,
 * and a server may, too.
 *
 * The files are looked at again and again: watchers miss the symbolic links by which Kubernetes replaces them. What is
 * no certificate is told once, and those before stay in use.
 */
import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Config, UpstreamConfig } from '../../config/schema.ts'
import { areCertificates } from '../../config/certificates.ts'
import type { LiveConfig } from '../../config/live.ts'

interface TrustingOptions {
  readonly live: LiveConfig
  /** Goes on by that configuration. */
  readonly apply: (config: Config) => Promise<unknown>
  readonly pollMs: number
  readonly log: Logger
}

export function watchCertificates({ live, apply, pollMs, log }: TrustingOptions): Disposable {
  const told = new Map<string, string>()
  let looking = false
  const read = async (upstream: UpstreamConfig): Promise<UpstreamConfig> => {
    const { key, ca, caFile } = upstream
    if (caFile === undefined) return upstream
    const facts = { upstream: key, file: caFile }
    try {
      const pem = await readFile(caFile, 'utf8')
      if (pem === ca) told.delete(key)
      else if (areCertificates(pem)) {
        log.info(facts, 'certificates of an upstream were read again')
        return { ...upstream, ca: pem }
      } else if (told.get(key) !== pem) {
        told.set(key, pem)
        log.warn(facts, 'certificates of an upstream cannot be used: those before stay')
      }
    } catch (error) {
      const { message } = error as Error
      if (told.get(key) !== message) log.warn({ ...facts, err: error }, 'certificates cannot be read again')
      told.set(key, message)
    }
    return upstream
  }
  const look = async (): Promise<void> => {
    const config = live.config
    const upstreams = await Promise.all(config.upstreams.map((it) => read(it)))
    const changed = upstreams.some((it, position) => it !== config.upstreams[position])
    // Another configuration has come meanwhile, with the files as they are now.
    if (changed && live.config === config) await apply({ ...config, upstreams })
  }
  const timer = setInterval(() => {
    if (looking) return
    looking = true
    look()
      .catch((error: unknown) => log.warn({ err: error }, 'certificates were not taken over'))
      .finally(() => {
        looking = false
      })
  }, pollMs).unref()
  return { [Symbol.dispose]: () => clearInterval(timer) }
}
