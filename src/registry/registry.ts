/**
 * Repository name (and `?ns=`) -> Repository. The five rules of "Names -> repositories", in one place.
 */
import type { RepositoryName } from '../oci/reference.ts'
import type { Repository } from './repository.ts'

export interface Resolution {
  readonly repository: Repository
  /** What to echo as `OCI-Namespace`, when the client sent `?ns=`. */
  readonly namespace: string | undefined
  /** Why it went there; for messages and the log. */
  readonly rule: 'ns' | 'local' | 'prefix' | 'existing' | 'default'
}

export interface Registry {
  /** @throws OciError NAME_UNKNOWN when no rule takes the name */
  resolve(name: RepositoryName, namespace: string | undefined): Promise<Resolution>
  /** Why a write to that name is refused. Pushes come with their own issue; until then every write is. */
  refuseWrite(name: RepositoryName, namespace: string | undefined): Promise<never>
  /** For `/readyz`: what works less than it should; never a reason to be restarted. */
  health(): RegistryHealth
}

export interface RegistryHealth {
  readonly upstreams: readonly {
    readonly key: string
    readonly state: 'ok' | 'failing' | 'denied'
    readonly message: string | undefined
  }[]
  /** The cache is bypassed because the disk would not take it. */
  readonly storage: 'ok' | 'bypassed'
}
