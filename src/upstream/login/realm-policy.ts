/**
 * The realm rule: which token service may see the credentials of an upstream.
 *
 * The same host or the same registrable domain, over https; plain http only where the upstream itself is plain
 * http and the host is the same, or both are on this machine.
 */
import { isIP } from 'node:net'
import { classifyAddress, hostOf } from '../transport/address-policy.ts'

/** Whether `realm` may be asked at all, without credentials. */
export function isAcceptableRealm(upstream: URL, realm: URL): boolean {
  if (realm.protocol === 'https:') return true
  return realm.protocol === 'http:' && upstream.protocol === 'http:'
}

/** Whether `realm` may see what the operator configured for `upstream`. */
export function credentialsMayGo(upstream: URL, realm: URL): boolean {
  const [here, there] = [rootlessHostOf(upstream), rootlessHostOf(realm)]
  const bothLoopback = isLoopback(here) && isLoopback(there)
  if (realm.protocol === 'http:') return upstream.protocol === 'http:' && (here === there || bothLoopback)
  if (realm.protocol !== 'https:') return false
  const domain = registrableDomain(here)
  return here === there || (domain !== undefined && domain === registrableDomain(there))
}

/** `quay.io.` is `quay.io`; with the dot its last two labels would be `io` and nothing. */
function rootlessHostOf(url: URL): string {
  // A run of dots is looked at once: whoever names a realm may put in as many as a header holds.
  return hostOf(url).replace(/(?<!\.)\.+$/, '')
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || (isIP(host) !== 0 && classifyAddress(host) === 'loopback')
}

/**
 * Below these anybody can have a name, so a shared suffix means nothing there. Two labels each; registries that
 * live below one have their token service on their own host.
 */
const SHARED = new Set([
  'amazonaws.com',
  'appspot.com',
  'azurecr.io',
  'azureedge.net',
  'azurefd.net',
  'azurewebsites.net',
  'backblazeb2.com',
  'cloudapp.net',
  'cloudfront.net',
  'cloudfunctions.net',
  'digitaloceanspaces.com',
  'fly.dev',
  'github.io',
  'githubusercontent.com',
  'gitlab.io',
  'googleapis.com',
  'herokuapp.com',
  'jfrog.io',
  'linodeobjects.com',
  'netlify.app',
  'ngrok.app',
  'ngrok.io',
  'nip.io',
  'ondigitalocean.app',
  'onrender.com',
  'pages.dev',
  'pkg.dev',
  'r2.dev',
  'run.app',
  'scw.cloud',
  'sslip.io',
  'trafficmanager.net',
  'vercel.app',
  'web.app',
  'windows.net',
  'workers.dev',
])
/** Below a country's two letters these are its public suffixes: `co.uk`. */
const SECOND_LEVEL = new Set(
  'ac co com edu gob gouv go gov gv ltd me mil ne net nhs nom or org plc sch'.split(' '),
)

/** An approximation of the public suffix list; undefined where only the same host will do. */
function registrableDomain(host: string): string | undefined {
  const labels = host.split('.')
  if (isIP(host) !== 0 || labels.length < 2) return undefined
  const [second = '', top = ''] = labels.slice(-2)
  const length = top.length === 2 && SECOND_LEVEL.has(second) ? 3 : 2
  const domain = labels.slice(-length).join('.')
  return labels.length < length || SHARED.has(domain) ? undefined : domain
}
