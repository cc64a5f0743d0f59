/**
 * Allow-list of `Host` names for a server on a loopback address, against DNS rebinding: a page whose own name resolves
 * to this machine could else read, through the user's browser, what was pushed.
 *
 * It allows the loopback addresses and names, those in `/etc/hosts` included, this machine's name, and the host of
 * `server.publicUrl`: no foreign page can be served under one of them.
 */
import { readFileSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { isLoopback } from '../base/loopback.ts'

/** Size of the cache of allowed hosts, ports included. */
const MOST_KNOWN = 64
/** A DNS name of 253 characters, a colon and a port. */
const LONGEST = 253 + 6
/** Interval of the checks whether the file has changed. */
const LOOK_AGAIN_MS = 1000

interface ServedHostsOptions {
  readonly publicUrl: string | undefined
  readonly hostsFile?: string
  /** Monotonic. */
  readonly now?: () => number
}

export class AllowedHosts {
  readonly #known = new Set<string>()
  readonly #names: ReadonlySet<string>
  readonly #file: LoopbackNames

  constructor({ publicUrl, hostsFile = '/etc/hosts', now = () => performance.now() }: ServedHostsOptions) {
    const own = publicUrl === undefined ? undefined : URL.parse(publicUrl)?.hostname
    this.#names = new Set([hostname().toLowerCase(), ...(own === undefined ? [] : [own])])
    this.#file = new LoopbackNames(hostsFile, now)
  }

  /** @param host with or without a port, as in `Host`; undefined: HTTP/1.0, which no browser speaks */
  serves(host: string | undefined): boolean {
    if (host === undefined || this.#known.has(host)) return true
    if (host.length > LONGEST) return false
    const name = nameOf(host)
    if (!isLoopback(name) && !this.#names.has(name) && !this.#file.has(name)) return false
    if (this.#known.size >= MOST_KNOWN) this.#known.clear()
    this.#known.add(host)
    return true
  }
}

/** Host in lower case, without the port and without the final dot of a full name. */
export function nameOf(host: string): string {
  return host
    .replace(/:\d*$/, '')
    .replace(/(?<=.)\.$/, '')
    .toLowerCase()
}

/** Names of loopback addresses in a file such as `/etc/hosts`, which is read again when it has changed. */
class LoopbackNames {
  readonly #file: string
  readonly #now: () => number
  #names: ReadonlySet<string> = new Set()
  #state = ''
  #lookedAt = -Infinity

  constructor(file: string, now: () => number) {
    this.#file = file
    this.#now = now
  }

  has(name: string): boolean {
    if (this.#now() - this.#lookedAt >= LOOK_AGAIN_MS) this.#look()
    return this.#names.has(name)
  }

  #look(): void {
    this.#lookedAt = this.#now()
    try {
      const { ino, size, mtimeMs } = statSync(this.#file)
      const state = [ino, size, mtimeMs].join()
      if (state === this.#state) return
      this.#names = loopbackNamesIn(readFileSync(this.#file, 'utf8'))
      this.#state = state
    } catch {
      // A missing file lists no names.
    }
  }
}

function loopbackNamesIn(text: string): Set<string> {
  const names = new Set<string>()
  for (const line of text.split('\n')) {
    const [address = '', ...its] = line.replace(/#.*/, '').trim().split(/\s+/)
    if (isLoopback(address)) for (const name of its) names.add(name.toLowerCase())
  }
  return names
}
