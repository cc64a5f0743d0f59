/**
 * skopeo's questions: `skopeo inspect`, which fails without the list of tags, and `skopeo list-tags`.
 *
 * Mirrors do not count for lists, so that the image is named after the mirror. It repeats nothing unless it is told
 * to, or told to come back later. Spec: its `cmd/skopeo/inspect.go`, containers/image `docker/docker_image.go`.
 */
import type { Client, Pulling } from './client.ts'
import { RefusedError } from './client.ts'
import { Source } from './podman.ts'
import { PullError } from './wire.ts'

export const skopeoInspect: Client = {
  name: 'skopeo inspect',
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const source = new Source(pulling, 'mirror')
    await source.ping()
    const top = await source.manifest(pulling.tag)
    const { config } = top.child === undefined ? top : await source.manifest(top.child.digest)
    if (config === undefined) throw new PullError('an index in an index')
    await source.blob(pulling.strand, config)
    try {
      await list(pulling)
    } catch (error) {
      // Registries that hide their lists from whoever may pull (ECR) do not spoil it.
      if (!(error instanceof RefusedError) || error.code !== 'DENIED') throw error
    }
  },
}

export const skopeoListTags: Client = {
  ...skopeoInspect,
  name: 'skopeo list-tags',
  pull: list,
}

/** By a client object of its own, which greets the registry anew. */
async function list(pulling: Pulling): Promise<void> {
  const source = new Source(pulling, 'mirror')
  await source.ping()
  pulling.shelf.tags = await source.tags()
}
