/** Factory of credential sources from their configuration. */
import { DockerConfigFile, passwordFile } from './credential-files.ts'
import { HelperCredentials, type HelperOptions } from './credential-helper.ts'
import { FixedCredentials, type CredentialSource } from './credentials.ts'

type CredentialSettings =
  | { readonly username: string; readonly password: string }
  | { readonly username: string; readonly passwordFile: string }
  | { readonly credentialsFile: string }
  | { readonly credentialHelper: string }

type Context = Omit<HelperOptions, 'name' | 'server'> & {
  /** The upstream's URL. */
  readonly url: string
}

const DOCKER_HUB = 'docker.io'
/** The key of Docker Hub for `docker login` and its helpers, since its first API. */
const DOCKER_HUB_SERVER = 'https://index.docker.io/v1/'

export function credentialSource(settings: CredentialSettings, context: Context): CredentialSource {
  const { key, url } = context
  if ('password' in settings) return new FixedCredentials(settings)
  if ('passwordFile' in settings) return passwordFile(settings.username, settings.passwordFile, context)
  const { host } = new URL(url)
  const server = key === DOCKER_HUB ? DOCKER_HUB_SERVER : host
  if ('credentialHelper' in settings) {
    return new HelperCredentials({ ...context, name: settings.credentialHelper, server })
  }
  const names = [host, key, ...(key === DOCKER_HUB ? ['index.docker.io'] : [])]
  return new DockerConfigFile({ ...context, path: settings.credentialsFile, names, server })
}
