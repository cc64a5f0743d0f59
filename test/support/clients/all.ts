/** Every emulated client. */
import { buildkit } from './buildkit.ts'
import type { Client } from './client.ts'
import { containerd16, containerd21, containerd23 } from './containerd.ts'
import { crane } from './crane.ts'
import { dockerd20, dockerd28 } from './dockerd.ts'
import { podman, podmanPartial } from './podman.ts'

export const CLIENTS: readonly Client[] = [
  dockerd20,
  dockerd28,
  containerd16,
  containerd21,
  containerd23,
  podman,
  podmanPartial,
  buildkit,
  crane,
]
