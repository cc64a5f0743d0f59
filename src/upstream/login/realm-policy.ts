/**
 * Realm rule of the token protocol: which token service may see the credentials of an upstream.
 *
 * The service needs the same host or the same registrable domain, over https; plain http only where the upstream
 * itself is plain http and the host is the same, or both are on this machine.
 */
import { createRequire } from 'node:module'
import type * as tldts from 'tldts'
import { classifyHost, hostOf } from '../transport/address-policy.ts'

/** Whether `realm` may be asked at all, without credentials. */
export function isAcceptableRealm(upstream: URL, realm: URL): boolean {
  if (realm.protocol === 'https:') return true
  return realm.protocol === 'http:' && upstream.protocol === 'http:'
}

/** Whether `realm` may see what the operator configured for `upstream`. */
export function credentialsMayGo(upstream: URL, realm: URL): boolean {
  const [here, there] = [rootlessHostOf(upstream), rootlessHostOf(realm)]
  if (realm.protocol === 'http:') {
    const bothLoopback = [here, there].every((host) => classifyHost(host) === 'loopback')
    return upstream.protocol === 'http:' && (here === there || bothLoopback)
  }
  if (realm.protocol !== 'https:') return false
  if (here === there) return true
  const domain = registrableDomain(here)
  return domain !== undefined && domain === registrableDomain(there)
}

/** `quay.io.` is `quay.io`; with the dot its last two labels would be `io` and nothing. */
function rootlessHostOf(url: URL): string {
  // A run of dots is scanned once: an attacker's upstream may send as many as a header holds.
  return hostOf(url).replace(/(?<!\.)\.+$/, '')
}

/**
 * Clouds whose customers share the names below these in finer parts than the public suffix list says, if it lists
 * them at all. Registries there have their token service on their own host.
 */
const SAME_HOST_ONLY = [
  'amazonaws.com',
  'appspot.com',
  'azurecr.io',
  'azureedge.net',
  'azurefd.net',
  'azurewebsites.net',
  'backblazeb2.com',
  'cloudapp.net',
  'googleapis.com',
  'jfrog.io',
  'nip.io',
  'pkg.dev',
  'scw.cloud',
  'sslip.io',
  'trafficmanager.net',
  'windows.net',
]

const load = createRequire(import.meta.url)

/** By the public suffix list, hosters' own (`github.io`) included; undefined where only the same host will do. */
function registrableDomain(host: string): string | undefined {
  if (SAME_HOST_ONLY.some((domain) => host === domain || host.endsWith(`.${domain}`))) return undefined
  // The list costs 12 ms of processor time and 1.4 MB: a start without credentials for another host does without.
  const { getDomain } = load('tldts') as typeof tldts
  return getDomain(host, { allowPrivateDomains: true }) ?? undefined
}
