/**
 * Checks of the configuration that concern more than one key, and of the files that its keys name.
 *
 * They read the tree of the file, not the result of the schema: a mistake elsewhere in the file must not hide one
 * here. Values of a wrong type are left to the schema's report.
 */
import { readFileSync } from 'node:fs'
import { isLoopback } from '../base/loopback.ts'
import { areCertificates } from './certificates.ts'
import { isTree, type ConfigSource, type Path, type Tree } from './yaml.ts'

const LABEL = '[a-z0-9](?:[a-z0-9-]*[a-z0-9])?'
/** A registry name: host or host:port, lower case. */
export const HOST = new RegExp(`^${LABEL}(?:\\.${LABEL})*(?::[0-9]{1,5})?$`)

/** Names that always mean an upstream, whether or not the file lists them as aliases. */
export const ALIASES: ReadonlyMap<string, readonly string[]> = new Map([
  ['docker.io', ['index.docker.io', 'registry-1.docker.io']],
])

/** The URL of an upstream whose `url` is not set. Docker Hub's API has another host than its name. */
export function defaultUrlOf(key: string): string {
  return key === 'docker.io' ? 'https://registry-1.docker.io' : `https://${key}`
}

const KEPT = 'the name local is kept for the repositories that are pushed here'

/** The content of each upstream's files, by its key. */
export type UpstreamFiles = ReadonlyMap<string, { readonly ca?: string | undefined }>

export function checkConfig(source: ConfigSource): UpstreamFiles {
  const tls = section(section(source.tree, 'server'), 'tls')
  if ('cert' in tls !== 'key' in tls) {
    source.report(['server', 'tls'], 'cert and key belong together: set both, or none')
  }
  const upstreams = section(source.tree, 'upstreams')
  checkNames(source, upstreams)
  const files = new Map<string, { ca?: string | undefined }>()
  for (const [key, value] of Object.entries(upstreams)) {
    if (!isTree(value)) continue
    const path = ['upstreams', key]
    checkFallbacks(source, path, value, defaultUrlOf(key))
    checkAccounts(source, path, value)
    files.set(key, { ca: readCertificates(source, [...path, 'ca'], value['ca']) })
  }
  checkNotifications(source)
  return files
}

function checkNames(source: ConfigSource, upstreams: Tree): void {
  const owners = new Map<string, string>(Object.keys(upstreams).map((key) => [key, key]))
  let standard: string | undefined
  for (const [key, value] of Object.entries(upstreams)) {
    const path = ['upstreams', key]
    if (key === 'local') source.report(path, KEPT)
    else if (!HOST.test(key))
      source.report(path, 'not a registry name: expected host or host:port, lower case')
    if (!isTree(value)) continue
    const listed: unknown[] = Array.isArray(value['aliases']) ? value['aliases'] : []
    for (const alias of [...(ALIASES.get(key) ?? []), ...listed]) {
      if (typeof alias !== 'string') continue
      const owner = owners.get(alias)
      const place = listed.indexOf(alias)
      const at = place < 0 ? ['upstreams', alias] : [...path, 'aliases', place]
      if (alias === 'local') source.report(at, KEPT)
      else if (owner === undefined || owner === key) owners.set(alias, key)
      else if (place < 0) source.report(at, `${alias} is always a name of ${key}`)
      else
        source.report(
          at,
          owner === alias ? `${alias} is an upstream of its own` : `${alias} is also a name of ${owner}`,
        )
    }
    if (value['default'] !== true && value['default'] !== 'true') continue
    if (standard !== undefined)
      source.report([...path, 'default'], `only one upstream can be the default, and ${standard} is`)
    standard ??= key
  }
}

function checkFallbacks(source: ConfigSource, path: Path, upstream: Tree, defaultUrl: string): void {
  const own = originOf(upstream['url'] ?? defaultUrl)
  const seen = new Set<string>()
  const listed: unknown[] = Array.isArray(upstream['fallbacks']) ? upstream['fallbacks'] : []
  for (const [place, value] of listed.entries()) {
    const origin = originOf(value)
    if (origin === undefined) continue
    const at = [...path, 'fallbacks', place]
    if (origin === own) source.report(at, `${origin} is the upstream itself`)
    else if (seen.has(origin)) source.report(at, `${origin} is listed twice`)
    seen.add(origin)
  }
}

function originOf(value: unknown): string | undefined {
  return typeof value === 'string' ? URL.parse(value)?.origin : undefined
}

/** The sources of an account's credentials, which must have exactly one. */
const CREDENTIALS = ['password', 'passwordFile', 'credentialsFile', 'credentialHelper'] as const

function checkAccounts(source: ConfigSource, path: Path, upstream: Tree): void {
  const listed: unknown[] = Array.isArray(upstream['credentials']) ? upstream['credentials'] : []
  const single = ['username', ...CREDENTIALS].find((key) => key in upstream)
  if (single !== undefined && listed.length > 0) {
    source.report(
      [...path, 'credentials'],
      `${single} is set as well: list every account in credentials, or have one without it`,
    )
  }
  checkAccount(source, path, upstream)
  for (const [place, account] of listed.entries()) {
    if (!isTree(account)) continue
    const at = [...path, 'credentials', place]
    if (!('username' in account) && !CREDENTIALS.some((key) => key in account)) {
      source.report(at, 'expected a username with a password, a credentialsFile or a credentialHelper')
    }
    checkAccount(source, at, account)
  }
  if (single !== undefined || listed.length > 0) checkWhoMayPull(source, path, upstream)
}

function checkAccount(source: ConfigSource, path: Path, account: Tree): void {
  const [chosen, ...others] = CREDENTIALS.filter((key) => key in account)
  for (const other of others) {
    source.report([...path, other], `${chosen} is set as well: set one of the two`)
  }
  const hasPassword = 'password' in account || 'passwordFile' in account
  if ('username' in account && chosen !== undefined && !hasPassword) {
    source.report([...path, 'username'], `${chosen} brings a user name of its own`)
  } else if ('username' in account !== hasPassword) {
    const missing = hasPassword ? 'a username' : 'a password (password or passwordFile)'
    source.report(
      [...path, hasPassword ? ('password' in account ? 'password' : 'passwordFile') : 'username'],
      `needs ${missing} beside it`,
    )
  }
  checkCredentialFiles(source, path, account)
}

/** An upstream's credentials give its private images to every client that may pull here. */
function checkWhoMayPull(source: ConfigSource, path: Path, upstream: Tree): void {
  const { host = '127.0.0.1', accelRedirect } = section(source.tree, 'server')
  if ('allow' in upstream || typeof host !== 'string') return
  if (accelRedirect === undefined && isLoopback(host)) return
  const [whoever, remedy] =
    accelRedirect === undefined
      ? [`whoever reaches ${host}`, ', or set server.host to 127.0.0.1']
      : ['whoever reaches the nginx of server.accelRedirect', '']
  source.report(
    path,
    `has credentials, so ${whoever} could pull the private images of that account: ` +
      `list what may be pulled in allow${remedy}`,
  )
}

/** The files are read again for each login; this check finds a mistake at the start. */
function checkCredentialFiles(source: ConfigSource, path: Path, account: Tree): void {
  const password = readNamed(source, [...path, 'passwordFile'], account['passwordFile'])
  if (password?.replace(/\r?\n$/, '') === '') {
    source.report([...path, 'passwordFile'], 'found an empty file, expected a password in it')
  }
  const credentials = readNamed(source, [...path, 'credentialsFile'], account['credentialsFile'])
  if (credentials !== undefined && !isJsonObject(credentials)) {
    source.report([...path, 'credentialsFile'], 'expected a file of JSON as docker login writes it')
  }
}

function isJsonObject(text: string): boolean {
  try {
    return isTree(JSON.parse(text))
  } catch {
    return false
  }
}

function readNamed(source: ConfigSource, path: Path, file: unknown): string | undefined {
  if (typeof file !== 'string' || file === '') return undefined
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    source.report(path, `cannot be read: ${(error as Error).message}`)
    return undefined
  }
}

function readCertificates(source: ConfigSource, path: Path, file: unknown): string | undefined {
  const pem = readNamed(source, path, file)
  if (pem === undefined) return undefined
  if (!areCertificates(pem))
    source.report(path, `found ${source.found(path)}, expected a file of PEM certificates`)
  return pem
}

function section(tree: Tree, key: string): Tree {
  const value = tree[key]
  return isTree(value) ? value : {}
}

/** @returns the known word that a mistyped one most likely meant */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const best = known
    .map((candidate) => ({ candidate, distance: editDistance(word.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance)[0]
  return best && best.distance <= Math.max(2, word.length / 3) ? best.candidate : undefined
}

/** The Levenshtein distance, computed one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 0; i < Math.min(a.length, 64); i++) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) {
      const swap = (row[j] ?? 0) + (a[i] === b[j] ? 0 : 1)
      next.push(Math.min((next[j] ?? 0) + 1, (row[j + 1] ?? 0) + 1, swap))
    }
    row = next
  }
  return row[b.length] ?? 0
}

/** RFC 9110 § 5.1. */
const HEADER_NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/
/** Headers that the notifier or HTTP itself sets. */
const OUR_HEADERS = /^(?:host|connection|content-.*|transfer-encoding|expect|upgrade|te|trailer|keep-alive)$/i

function checkNotifications(source: ConfigSource): void {
  const endpoints: unknown = source.tree['notifications']
  if (!Array.isArray(endpoints)) return
  const seen = new Set<string>()
  for (const [at, endpoint] of endpoints.entries()) {
    if (!isTree(endpoint)) continue
    const path = ['notifications', at]
    const url = typeof endpoint['url'] === 'string' ? URL.parse(endpoint['url'])?.href : undefined
    if (url !== undefined && seen.has(url))
      source.report([...path, 'url'], 'another end-point has the same URL')
    if (url !== undefined) seen.add(url)
    for (const name of Object.keys(section(endpoint, 'headers'))) {
      if (!HEADER_NAME.test(name)) source.report([...path, 'headers', name], 'not the name of a header')
      else if (OUR_HEADERS.test(name)) source.report([...path, 'headers', name], 'this header cannot be set')
    }
  }
}
