/**
 * entrepot between two simulated registries: `docker.io`, the default, and `quay.io`.
 */
import type { Test } from 'tap'
import {
  ownFolder,
  pull,
  simulate,
  startMirror,
  type Mirror,
  type MirrorOptions,
  type Pulled,
} from './app.ts'
import { seedLocal, type LocalRepositoryContent } from './local.ts'
import type { UpstreamOptions, UpstreamSimulator } from './upstream.ts'

export interface TwoUpstreams {
  readonly hub: UpstreamSimulator
  readonly quay: UpstreamSimulator
  readonly mirror: Mirror
  /** `path` is what follows `/v2/`. */
  readonly get: (path: string, headers?: Record<string, string>) => Promise<Pulled>
  readonly head: (path: string) => Promise<Pulled>
  /** Requests that any upstream has seen. */
  readonly asked: () => number
}

export interface TwoUpstreamsOptions extends MirrorOptions {
  /** Of the configuration, merged over each upstream's `url`. */
  hub?: Record<string, unknown>
  quay?: Record<string, unknown>
  simulated?: UpstreamOptions
  local?: readonly LocalRepositoryContent[]
}

export async function startTwoUpstreams(t: Test, options: TwoUpstreamsOptions = {}): Promise<TwoUpstreams> {
  const { hub: hubSettings, quay: quaySettings, simulated = {}, local = [], config, ...rest } = options
  const hub = await simulate(t, simulated)
  const quay = await simulate(t, simulated)
  const root = options.root ?? ownFolder(t)
  if (local.length > 0) await seedLocal(root, local)
  const mirror = await startMirror(t, hub, {
    ...rest,
    root,
    config: {
      upstreams: {
        'docker.io': { url: hub.url, default: true, ...hubSettings },
        'quay.io': { url: quay.url, ...quaySettings },
      },
      ...config,
    },
  })
  return {
    hub,
    quay,
    mirror,
    get: (path, headers) => pull(`${mirror.url}/v2/${path}`, headers),
    head: (path) => pull(`${mirror.url}/v2/${path}`, {}, 'HEAD'),
    asked: () => hub.log.count() + quay.log.count(),
  }
}

/** The first error code of an OCI error body. */
export function codeOf({ body }: Pick<Pulled, 'body'>): string | undefined {
  const { errors } = JSON.parse(body.toString()) as { errors: { code: string; message: string }[] }
  return errors[0]?.code
}

export function messageOf({ body }: Pick<Pulled, 'body'>): string {
  const { errors } = JSON.parse(body.toString()) as { errors: { code: string; message: string }[] }
  return errors[0]?.message ?? ''
}
