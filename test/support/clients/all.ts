/** Every emulated client: those that pull images, and those that ask for something else. */
import { buildkit } from './buildkit.ts'
import type { Client } from './client.ts'
import { containerd16, containerd21, containerd23, containerd24 } from './containerd.ts'
import { cosign } from './cosign.ts'
import { crane, craneLs } from './crane.ts'
import { docker29, docker29Prefix } from './docker29.ts'
import { dockerd20, dockerd28 } from './dockerd.ts'
import { helmRange, notation, orasDiscover } from './oras.ts'
import { podman, podmanPartial } from './podman.ts'
import { skopeoInspect } from './skopeo.ts'

export const CLIENTS: readonly Client[] = [
  dockerd20,
  dockerd28,
  docker29,
  docker29Prefix,
  containerd16,
  containerd21,
  containerd23,
  containerd24,
  podman,
  podmanPartial,
  buildkit,
  crane,
]

/** What inspects, lists and verifies; one for each way in which an image's list or its referrers are asked for. */
export const ASKERS: readonly Client[] = [skopeoInspect, craneLs, helmRange, cosign, notation, orasDiscover]
