/** Local repositories that the names of configured upstreams would shadow. */
import type { Config } from '../../config/schema.ts'
import type { RepositoryName } from '../../oci/reference.ts'
import { hiddenLocalNames } from '../registry.ts'

export function shadowedNames(config: Config, names: Iterable<RepositoryName>): RepositoryName[] {
  const upstreamNames = new Set(config.upstreams.flatMap(({ key, aliases }) => [key, ...aliases]))
  return hiddenLocalNames(names, upstreamNames, config.local)
}
