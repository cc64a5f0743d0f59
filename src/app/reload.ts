/**
 * Reload: applies a new configuration to the running server, all of it or nothing.
 *
 * A key that only a restart can change keeps its old value and is named in the result.
 */
import type { Logger } from 'pino'
import type { Config } from '../config/schema.ts'
import { differencesOf } from '../config/diff.ts'
import { refuseShadowedNames } from './start-error.ts'
import type { LiveConfig } from '../config/live.ts'
import type { SwitchableHubSearch } from './parts/upstreams.ts'
import type { LocalNames } from '../registry/naming/local-names.ts'
import type { NameRegistry } from '../registry/registry.ts'
import type { UpstreamSet } from './parts/upstream-set.ts'

interface ReloadParts {
  readonly live: LiveConfig
  readonly localNames: LocalNames
  readonly upstreams: UpstreamSet
  readonly hub: SwitchableHubSearch
  readonly registry: NameRegistry
  readonly log: Logger
}

/** Keys of the configuration. */
export interface Reloaded {
  readonly applied: readonly string[]
  readonly needRestart: readonly string[]
}

/** Ports, folders, and the spans of sessions and grace periods that have begun. */
export const ONLY_AT_THE_START =
  /^(?:server|storage|auth|notifications|push\.sessionTtl|push\.gcGrace)(?:\.|$)/

/** @throws StartError where a start with it would be refused; then nothing has changed */
export async function reload(parts: ReloadParts, read: Config): Promise<Reloaded> {
  const { live, localNames, upstreams, hub, registry, log } = parts
  const before = live.config
  const { server, storage, auth, notifications, proxyEnvironment } = before
  const { sessionTtl, gcGrace } = before.push
  const after = {
    ...read,
    ...{ server, storage, auth, notifications, proxyEnvironment },
    push: { ...read.push, sessionTtl, gcGrace },
  }
  refuseShadowedNames(after, localNames)
  upstreams.apply(after)
  live.replace(after)
  registry.replace(upstreams.entries)
  log.level = after.log.level
  await hub.apply(after)
  return {
    applied: differencesOf(before, after),
    needRestart: differencesOf(before, read).filter((key) => ONLY_AT_THE_START.test(key)),
  }
}
