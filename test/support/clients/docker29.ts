/**
 * Docker 29 with containerd's image store, which it has by default: by the mirror's own name, and with the mirror
 * among its `registry-mirrors`.
 *
 * Behind the manifest of the platform it pulls the attestation manifest that the index has for it, and asks what
 * refers to that one, in every pull, also in one that finds all else here. A host that can answer neither that
 * question nor for the tag ends the pull; "not there" and an empty list do not. Spec: moby's
 * `daemon/containerd/image_pull.go`, containerd's `core/remotes/docker/referrers.go`.
 */
import { Resolver, type Version } from './containerd.ts'
import { Download, expectOk, readManifest, type Client, type Descriptor, type Shelf } from './client.ts'
import { nextPageOf, readTags } from './pages.ts'
import type { Strand } from './strand.ts'
import type { Answer, Head } from './wire.ts'

const VERSION: Version = {
  userAgent:
    'docker/29.8.0 go/go1.26.3 git-commit/b985e23 kernel/6.12.0 os/linux arch/amd64 ' +
    'containerd-client/2.3.4 storage-driver/overlayfs UpstreamClient(Docker-Client/29.8.0 \\(linux\\))',
  acceptEncoding: true,
  headersMs: 30_000,
  most: { requests: 5, layers: 3 },
  secondChance: true,
}

/** Signatures of the attestations; whatever else refers to them it leaves alone. */
const SIGNATURES = new Set([
  'application/vnd.dev.cosign.artifact.sig.v1+json',
  'application/vnd.dev.sigstore.bundle.v0.3+json',
])

export const docker29 = docker('Docker 29', 'everything', VERSION)
export const docker29Prefix = docker('Docker 29 (prefix)', 'nothing', {
  ...VERSION,
  prefix: true,
  alone: true,
})

/** `docker pull -a`: the list comes by the older half of Docker, in which mirrors do not count for such a name. */
export const docker29All: Client = {
  name: 'Docker 29 pull -a',
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const { strand, shelf, registry, repository } = pulling
    const ask = (path: string): Promise<Answer> => {
      const head: Head = [
        ['User-Agent', VERSION.userAgent],
        ['Connection', 'close'],
      ]
      return strand.ask('mirror', 'GET', path, head)
    }
    await (await ask('/v2/')).discard()
    const tags: string[] = []
    for (let path: string | undefined = `/v2/${registry}/${repository}/tags/list`; path !== undefined;) {
      const answer: Answer = await expectOk(await ask(path))
      tags.push(...readTags(await answer.bytes()))
      path = nextPageOf(answer)
    }
    for (const tag of tags) await docker29Prefix.pull({ ...pulling, tag })
    shelf.tags = tags
  },
}

function docker(name: string, elsewhere: Client['elsewhere'], version: Version): Client {
  return {
    name,
    elsewhere,
    keepAlive: true,
    async pull(pulling) {
      const { strand, shelf, tag } = pulling
      const resolver = new Resolver(version, pulling)
      const top = await resolver.resolve(strand, tag)
      await new Walk(resolver, shelf, version.most.layers).visit(strand, top)
    },
  }
}

/** From the index down to the layers, and across to what refers to them. */
class Walk {
  readonly #resolver: Resolver
  readonly #shelf: Shelf
  readonly #layersAtOnce: number
  /** By the digest of the manifest that each is for. */
  readonly #candidates = new Map<string, Descriptor>()
  readonly #attestations = new Set<string>()

  constructor(resolver: Resolver, shelf: Shelf, layersAtOnce: number) {
    this.#resolver = resolver
    this.#shelf = shelf
    this.#layersAtOnce = layersAtOnce
  }

  async visit(strand: Strand, it: Descriptor): Promise<void> {
    const bytes = await this.#have(strand, it)
    const { child, config, layers } = readManifest(bytes)
    if (config === undefined) {
      for (const [subject, attestation] of attestationsIn(bytes)) this.#candidates.set(subject, attestation)
      if (child !== undefined) await this.visit(strand, child)
      return
    }
    // What refers to it is known before its config and its layers are fetched.
    const referrers = await this.#referrers(strand, it)
    await strand.beside(
      (strand) =>
        strand.all(this.#layersAtOnce, [config, ...layers], async (it, strand) => {
          await this.#have(strand, it)
        }),
      ...referrers.map((it) => (strand: Strand) => this.visit(strand, it)),
    )
  }

  async #referrers(strand: Strand, { digest }: Descriptor): Promise<readonly Descriptor[]> {
    const attestation = this.#candidates.get(digest)
    if (attestation !== undefined) {
      this.#attestations.add(attestation.digest)
      return [attestation]
    }
    if (!this.#attestations.has(digest)) return []
    const all = await this.#resolver.referrers(strand, digest)
    return all.filter(({ artifactType = '' }) => SIGNATURES.has(artifactType))
  }

  /** Fetched unless it is in its own store. */
  async #have(strand: Strand, it: Descriptor): Promise<Buffer> {
    if (!this.#shelf.has(it.digest)) await this.#resolver.fetch(strand, it, this.#shelf, new Download())
    return this.#shelf.contents.get(it.digest)?.bytes() ?? Buffer.alloc(0)
  }
}

/** The last one that an index has for a manifest counts. */
function attestationsIn(index: Buffer): Map<string, Descriptor> {
  const { manifests = [] } = JSON.parse(index.toString()) as { manifests?: Descriptor[] }
  const attestations = new Map<string, Descriptor>()
  for (const it of manifests) {
    const subject = it.annotations?.['vnd.docker.reference.digest']
    const type = it.annotations?.['vnd.docker.reference.type']
    if (type === 'attestation-manifest' && subject !== undefined) attestations.set(subject, it)
  }
  return attestations
}
