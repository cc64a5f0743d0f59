/**
 * Registries of the world on this machine.
 */
import type { Test } from 'tap'
import type { Content, Image } from '../images.ts'
import type { Filter, LogEntry } from '../upstream-log.ts'
import { startUpstream, type UpstreamSimulator } from '../upstream.ts'
import { acr } from './acr.ts'
import { dockerHub } from './docker-hub.ts'
import { ecrPrivate } from './ecr-private.ts'
import { ecrPublic } from './ecr-public.ts'
import { gcr } from './gcr.ts'
import { ghcr } from './ghcr.ts'
import { harbor } from './harbor.ts'
import { k8s } from './k8s.ts'
import { mcr } from './mcr.ts'
import { nexus } from './nexus.ts'
import { plainDistribution } from './plain-distribution.ts'
import type { Profile, Quirk } from './profile.ts'
import { quay } from './quay.ts'

export const PROFILES = {
  dockerHub,
  quay,
  gcr,
  ghcr,
  ecrPublic,
  k8s,
  mcr,
  ecrPrivate,
  acr,
  harbor,
  plainDistribution,
  nexus,
} as const satisfies Record<string, Profile>

export type ProfileName = keyof typeof PROFILES

/** Heads that every one of them sends with everything, and that are between it and us. */
const NOISE = {
  'set-cookie': 'session=upstream; Secure',
  'alt-svc': 'h3=":443"; ma=2592000',
  'strict-transport-security': 'max-age=31536000',
  'x-registry-supports-signatures': '1',
  via: '1.1 varnish',
  'x-cache': 'Hit from cloudfront',
}

export interface RunningProfile {
  readonly profile: Profile
  /** What a mirror is pointed at. */
  readonly registry: UpstreamSimulator
  /** All there are; the last has the content. */
  readonly all: readonly UpstreamSimulator[]
  /** By the name that clients of the registry use. */
  addImage(repo: string, tag: string | undefined, image: Image): void
  addBlob(repo: string, blob: Content): void
  deleteTag(repo: string, tag: string): void
  /** What all of them saw. */
  seen(filter?: Filter): LogEntry[]
}

export async function startProfile(t: Test, name: ProfileName): Promise<RunningProfile> {
  const profile: Profile = PROFILES[name]
  const { behind } = profile
  const store = behind && (await started(t, behind.profile))
  const nameAtStore = (repo: string): string => (behind === undefined ? repo : `${behind.prefix}/${repo}`)
  const registry = await started(t, profile, store && ((entry) => elsewhere(store.url, nameAtStore, entry)))
  const all = store === undefined ? [registry] : [registry, store]
  return {
    profile,
    registry,
    all,
    addBlob: (repo, blob) => (store ?? registry).addBlob(nameAtStore(repo), blob),
    deleteTag: (repo, tag) => (store ?? registry).deleteTag(nameAtStore(repo), tag),
    addImage: (repo, tag, image) => (store ?? registry).addImage(nameAtStore(repo), tag, image),
    seen: (filter) => all.flatMap(({ log }) => log.of(filter)),
  }
}

async function started(
  t: Test,
  profile: Profile,
  elsewhereOf?: (entry: LogEntry) => string | undefined,
): Promise<UpstreamSimulator> {
  const upstream = await startUpstream({ ...profile.options, elsewhere: elsewhereOf })
  t.teardown(() => upstream.close())
  const quirks: readonly Quirk[] = [[{}, {}], ...profile.quirks(upstream)]
  for (const [matcher, behaviour] of quirks) {
    upstream.fault(matcher, { ...behaviour, headers: { ...NOISE, ...behaviour.headers } })
  }
  return upstream
}

function elsewhere(
  url: string,
  nameAtStore: (repo: string) => string,
  { kind, repo, url: asked }: LogEntry,
): string | undefined {
  if (kind === 'ping' || repo === undefined) return undefined
  return url + asked.replace(`/v2/${repo}/`, `/v2/${nameAtStore(repo)}/`)
}
