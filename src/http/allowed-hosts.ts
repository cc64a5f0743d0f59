/**
 * The hosts by which a server that only this machine can reach is called. To any other it answers nothing: a page in a
 * browser here whose own name was made to lead to this machine (DNS rebinding) could else read what was pushed.
 *
 * They are the loopback addresses and names, those of `/etc/hosts` included, this machine's name, and that of
 * `server.publicUrl`: nobody elsewhere can have a page under one of them.
 */
import { readFileSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { isLoopback } from '../base/loopback.ts'

/** Hosts, ports included, that were found to be among them. */
const MOST_KNOWN = 64
/** A name has no more, and a port. */
const LONGEST = 253 + 6
/** Between two looks at whether the file has changed. */
const LOOK_AGAIN_MS = 1000

interface ServedHostsOptions {
  readonly publicUrl: string | undefined
  /** Default: `/etc/hosts`. */
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

  /** @param host with or without a port, as `Host` has it; undefined: HTTP/1.0, which no browser speaks */
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

/** In lower case, without the port, and without the dot that ends a full name. */
export function nameOf(host: string): string {
  return host
    .replace(/:\d*$/, '')
    .replace(/(?<=.)\.$/, '')
    .toLowerCase()
}

/** The names that a file such as `/etc/hosts` gives loopback addresses; read again when it has changed. */
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
      // Where there is no such file, no name is in it.
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
