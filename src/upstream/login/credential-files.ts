/**
 * Credential sources in files: a password beside its user name, or docker's `config.json`.
 *
 * A file is read again when it changes, so that a password that is rotated every twelve hours works without a
 * restart. While the file is unreadable or half written, its last content counts.
 */
import { readFile, stat } from 'node:fs/promises'
import { isObject, jsonObjectIn } from '../../oci/json.ts'
import { isOutOfFiles } from '../../base/open-files.ts'
import {
  IDENTITY_TOKEN,
  unavailable,
  usable,
  type Credentials,
  type CredentialSource,
} from './credentials.ts'
import { HelperCredentials, type HelperOptions } from './credential-helper.ts'
import { toUpstreamError } from '../transport/errors.ts'

interface FileOptions {
  readonly key: string
  readonly log: HelperOptions['log']
}

class WatchedFile<T> {
  readonly #path: string
  readonly #parse: (text: string) => T | undefined
  readonly #options: FileOptions
  #read: { readonly version: string; readonly content: T } | undefined
  #complained = false

  /** @param parse returns undefined for a file that is not what it should be */
  constructor(path: string, parse: (text: string) => T | undefined, options: FileOptions) {
    this.#path = path
    this.#parse = parse
    this.#options = options
  }

  /** @throws UpstreamError when it could never be read */
  async content(): Promise<T> {
    try {
      const { mtimeMs, size, ino } = await stat(this.#path)
      const version = `${mtimeMs} ${size} ${ino}`
      if (this.#read?.version === version) return this.#read.content
      const content = this.#parse(await readFile(this.#path, 'utf8'))
      if (content !== undefined) {
        this.#read = { version, content }
        this.#complained = false
        return content
      }
    } catch (error) {
      if (this.#read === undefined && isOutOfFiles(error)) {
        throw toUpstreamError(this.#options.key, this.#options.key, error)
      }
      // A file that is being replaced may be missing for a moment.
    }
    const { key, log } = this.#options
    if (!this.#complained) log.warn({ upstream: key, file: this.#path }, 'the credentials cannot be read')
    this.#complained = true
    // Clients read this message: the path is for the log alone.
    if (this.#read === undefined) throw unavailable(key, 'the file with its credentials cannot be read')
    return this.#read.content
  }
}

/** A user name, and a file that holds nothing but the password; one newline at its end does not count. */
export function passwordFile(username: string, path: string, options: FileOptions): CredentialSource {
  const parse = (text: string): Credentials | undefined => {
    const password = text.replace(/\r?\n$/, '')
    return password === '' ? undefined : { username, password }
  }
  const file = new WatchedFile(path, parse, options)
  // A newer password shows by the file's time.
  return { get: () => file.content() }
}

interface DockerConfigOptions extends Omit<HelperOptions, 'name' | 'server'> {
  readonly path: string
  /** Names that the registry may have in the file, the best one first. */
  readonly names: readonly string[]
  /** The registry's name for a helper. */
  readonly server: string
}

/** The entry of one registry in a file that `docker login` writes, with its helpers. */
export class DockerConfigFile implements CredentialSource {
  readonly #options: DockerConfigOptions
  readonly #file: WatchedFile<DockerConfig>
  readonly #helpers = new Map<string, HelperCredentials>()
  #warned = false

  constructor(options: DockerConfigOptions) {
    this.#options = options
    this.#file = new WatchedFile(options.path, parseDockerConfig, options)
  }

  async get(signal: AbortSignal): Promise<Credentials | undefined> {
    const { key, names, path, log } = this.#options
    const { auths, credHelpers, credsStore } = await this.#file.content()
    const own = names.map((name) => credHelpers.get(name)).find((it) => it !== undefined)
    if (own !== undefined) return await this.#helper(own).get(signal)
    const written = names.map((name) => auths.get(name)).find((it) => it !== undefined)
    if (written !== undefined) return usable(key, written)
    if (credsStore !== undefined) return await this.#helper(credsStore).get(signal)
    if (!this.#warned) {
      log.warn({ upstream: key, file: path, names }, 'no credentials for this upstream: asking without')
    }
    this.#warned = true
    return undefined
  }

  rejected(credentials: Credentials): void {
    for (const helper of this.#helpers.values()) helper.rejected(credentials)
  }

  close(): void {
    for (const helper of this.#helpers.values()) helper.close()
  }

  #helper(name: string): HelperCredentials {
    let helper = this.#helpers.get(name)
    if (helper === undefined) {
      // The name becomes that of a program: a slash would choose its folder.
      if (!/^[a-z0-9-]+$/.test(name)) {
        throw unavailable(this.#options.key, 'the file with its credentials names a credential helper oddly')
      }
      helper = new HelperCredentials({ ...this.#options, name })
      this.#helpers.set(name, helper)
    }
    return helper
  }
}

interface DockerConfig {
  readonly auths: ReadonlyMap<string, Credentials>
  readonly credHelpers: ReadonlyMap<string, string>
  readonly credsStore: string | undefined
}

/** @returns undefined if the text is no JSON object; entries that make no sense are skipped */
function parseDockerConfig(text: string): DockerConfig | undefined {
  const config = jsonObjectIn(text)
  if (config === undefined) return undefined
  const { auths, credHelpers, credsStore } = config
  return {
    auths: entriesOf(auths, credentialsIn),
    credHelpers: entriesOf(credHelpers, (it) => (typeof it === 'string' && it !== '' ? it : undefined)),
    credsStore: typeof credsStore === 'string' && credsStore !== '' ? credsStore : undefined,
  }
}

/** The entries by host; the first spelling of a host counts. */
function entriesOf<T>(value: unknown, read: (value: unknown) => T | undefined): Map<string, T> {
  const entries = new Map<string, T>()
  for (const [name, it] of Object.entries(isObject(value) ? value : {})) {
    const host = hostIn(name)
    const found = read(it)
    if (host !== undefined && found !== undefined && !entries.has(host)) entries.set(host, found)
  }
  return entries
}

/** The host in `https://index.docker.io/v1/`; undefined for podman's entries of one namespace (`quay.io/team`). */
function hostIn(name: string): string | undefined {
  return /^(?:https?:\/\/)?([^/]+)(?:\/(?:v[12]\/?)?)?$/.exec(name.toLowerCase())?.[1]
}

function credentialsIn(entry: unknown): Credentials | undefined {
  if (!isObject(entry)) return undefined
  const { auth, username, password, identitytoken } = entry
  const decoded = typeof auth === 'string' ? Buffer.from(auth, 'base64').toString() : ''
  const colon = decoded.indexOf(':')
  const pair =
    typeof username === 'string' && typeof password === 'string'
      ? { username, password }
      : // Some versions of docker pad with zeros.
        {
          username: decoded.slice(0, Math.max(colon, 0)),
          password: decoded.slice(colon + 1).replace(/\0+$/, ''),
        }
  if (typeof identitytoken === 'string' && identitytoken !== '') {
    return { username: IDENTITY_TOKEN, password: identitytoken }
  }
  return pair.username === '' ? undefined : pair
}
