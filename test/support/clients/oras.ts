/**
 * The clients that are made of oras-go: `oras discover`, `notation verify`, and helm with a range of versions.
 */
import { readManifest, type Client, type Descriptor } from './client.ts'
import { OrasRepository } from './oras-go.ts'
import { PullError } from './wire.ts'

const NOTATION_SIGNATURE = 'application/vnd.cncf.notary.signature'
const BLOBS_AT_ONCE = 3

/** The whole tree: also what refers to what refers to the image. */
export const orasDiscover: Client = {
  name: 'oras discover',
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const repository = new OrasRepository(pulling, 'oras/1.3.6')
    const found: Descriptor[] = []
    const visit = async (subject: Descriptor): Promise<void> => {
      for (const referrer of await repository.referrers(subject.digest)) {
        found.push(referrer)
        await visit(referrer)
      }
    }
    await visit(await repository.resolve(pulling.tag))
    pulling.shelf.referrers = found.map(({ digest }) => digest)
  },
}

export const notation: Client = {
  name: 'notation verify',
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const { strand, tag } = pulling
    const repository = new OrasRepository(pulling, 'notation/1.3.2')
    const subject = await repository.resolve(tag)
    const signatures = await repository.referrers(subject.digest, NOTATION_SIGNATURE)
    if (signatures.length === 0) throw new PullError('no signature is associated with it')
    for (const signature of signatures) {
      const { layers } = readManifest(await repository.fetchManifest(signature))
      const [envelope] = layers
      if (envelope === undefined || layers.length !== 1) throw new PullError('not exactly one envelope')
      await repository.fetchBlob(strand, envelope)
    }
  },
}

/** `helm pull oci://… --version '^1'`: the highest version of those that are listed. */
export const helmRange: Client = {
  name: "helm pull --version '^1'",
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const { strand, shelf } = pulling
    const repository = new OrasRepository(pulling, 'Helm/3.22.0')
    shelf.tags = await repository.tags()
    const [version] = versionsIn(shelf.tags).filter(([major]) => major === 1)
    if (version === undefined) throw new PullError('could not locate a version matching ^1')
    const { config, layers } = readManifest(await repository.manifest(version.join('.')))
    const blobs = config === undefined ? layers : [config, ...layers]
    await strand.all(BLOBS_AT_ONCE, blobs, (it, strand) => repository.fetchBlob(strand, it))
  },
}

/** Those of three numbers and nothing else, the highest one first; other tags are no versions. */
function versionsIn(tags: readonly string[]): readonly (readonly number[])[] {
  return tags
    .filter((tag) => /^\d+\.\d+\.\d+$/.test(tag))
    .map((tag) => tag.split('.').map(Number))
    .sort((one, other) => {
      const at = one.findIndex((part, position) => part !== other[position])
      return at < 0 ? 0 : (other[at] ?? 0) - (one[at] ?? 0)
    })
}
