/** Local repositories that the configured upstreams would shadow with their names. */
import type { Config } from '../../config/schema.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { hiddenLocalNames } from '../registry.ts'

export function shadowedNames(config: Config, names: Iterable<RepositoryName>): RepositoryName[] {
  const upstreamNames = new Set(config.upstreams.flatMap(({ key, aliases }) => [key, ...aliases]))
  return hiddenLocalNames(names, upstreamNames, config.local)
}
