/**
 * Local repositories that the configured upstreams would hide behind their keys.
 */
import type { Config } from '../../config/schema.ts'
import type { LocalNames } from './local-names.ts'
import { hiddenLocalNames } from '../registry.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { StartError } from '../../app/start-error.ts'

export function namesHiddenBy(config: Config, names: Iterable<RepositoryName>): RepositoryName[] {
  const upstreamNames = new Set(config.upstreams.flatMap(({ key, aliases }) => [key, ...aliases]))
  return hiddenLocalNames(names, upstreamNames, config.local)
}

/** @throws StartError naming what would become unreachable */
export function refuseHiddenNames(config: Config, localNames: LocalNames): void {
  const hidden = namesHiddenBy(config, localNames)
  if (hidden.length === 0) return
  const some = hidden.slice(0, 10).join(', ')
  throw new StartError(
    `the configured upstreams would hide local repositories: ${some}${hidden.length > 10 ? ' …' : ''}`,
  )
}
