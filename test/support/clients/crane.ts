/**
 * crane, and whatever else pulls by go-containerregistry: ko, kaniko.
 */
import { readManifest, type Client, type ParsedManifest } from './client.ts'
import { Remote } from './go-containerregistry.ts'
import { PullError } from './wire.ts'

const USER_AGENT = 'crane/v0.20.6 go-containerregistry/v0.20.6'
const JOBS = 4

export const crane: Client = {
  name: 'crane',
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const { strand, tag } = pulling
    const remote = new Remote(pulling, USER_AGENT)
    const manifest = async (reference: string): Promise<ParsedManifest> =>
      readManifest((await remote.manifest(reference)).bytes)
    await remote.ping()
    const top = await manifest(tag)
    const { config, layers } = top.child === undefined ? top : await manifest(top.child.digest)
    if (config === undefined) throw new PullError('an index in an index')
    await strand.all(JOBS, [config, ...layers], (it, strand) => remote.blob(strand, it))
  },
}

/** `crane digest`. */
export const craneDigest: Client = {
  ...crane,
  name: 'crane digest',
  async pull(pulling) {
    const remote = new Remote(pulling, USER_AGENT)
    await remote.ping()
    await remote.head(pulling.tag)
  },
}

/** `crane ls`. */
export const craneLs: Client = {
  ...crane,
  name: 'crane ls',
  async pull(pulling) {
    const remote = new Remote(pulling, USER_AGENT)
    await remote.ping()
    pulling.shelf.tags = await remote.tags()
  },
}
