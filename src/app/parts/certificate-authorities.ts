/**
 * Certificate authorities of upstreams, read again when their files change: a server may outlive their validity.
 *
 * The files are polled: watchers miss the symbolic links by which Kubernetes replaces them. A file without
 * certificates is logged once, and the former ones stay in use.
 */
import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Config, UpstreamConfig } from '../../config/schema.ts'
import { areCertificates } from '../../config/certificates.ts'
import type { LiveConfig } from '../../config/live.ts'

interface WatchOptions {
  readonly live: LiveConfig
  readonly apply: (config: Config) => Promise<unknown>
  readonly pollMs: number
  readonly log: Logger
}

export function watchCertificates({ live, apply, pollMs, log }: WatchOptions): Disposable {
  const logged = new Map<string, string>()
  let polling = false
  const read = async (upstream: UpstreamConfig): Promise<UpstreamConfig> => {
    const { key, ca, caFile } = upstream
    if (caFile === undefined) return upstream
    const facts = { upstream: key, file: caFile }
    try {
      const pem = await readFile(caFile, 'utf8')
      if (pem === ca) logged.delete(key)
      else if (areCertificates(pem)) {
        log.info(facts, 'certificates of an upstream were read again')
        return { ...upstream, ca: pem }
      } else if (logged.get(key) !== pem) {
        logged.set(key, pem)
        log.warn(facts, 'certificates of an upstream cannot be used: those before stay')
      }
    } catch (error) {
      const { message } = error as Error
      if (logged.get(key) !== message) log.warn({ ...facts, err: error }, 'certificates cannot be read again')
      logged.set(key, message)
    }
    return upstream
  }
  const poll = async (): Promise<void> => {
    const config = live.config
    const upstreams = await Promise.all(config.upstreams.map((it) => read(it)))
    const changed = upstreams.some((it, position) => it !== config.upstreams[position])
    // A reload in the meantime has read the files as they are now.
    if (changed && live.config === config) await apply({ ...config, upstreams })
  }
  const timer = setInterval(() => {
    if (polling) return
    polling = true
    poll()
      .catch((error: unknown) => log.warn({ err: error }, 'certificates were not taken over'))
      .finally(() => {
        polling = false
      })
  }, pollMs).unref()
  return { [Symbol.dispose]: () => clearInterval(timer) }
}
