/** Every emulated client that pulls images. */
import { buildkit } from './buildkit.ts'
import type { Client } from './client.ts'
import { containerd16, containerd21, containerd23, containerd24 } from './containerd.ts'
import { crane } from './crane.ts'
import { docker29, docker29Prefix } from './docker29.ts'
import { dockerd20, dockerd28 } from './dockerd.ts'
import { podman, podmanPartial } from './podman.ts'

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
