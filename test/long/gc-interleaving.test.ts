/**
 * Collections in the midst of everything else, in orders that fast-check chooses: between any two calls to the index
 * and to the store somebody else may go on.
 */
import fc from 'fast-check'
import { test } from 'tap'
import type { Digest } from '../../src/oci/digest.ts'
import { OciError } from '../../src/oci/errors.ts'
import { parseRepositoryName, type Reference } from '../../src/oci/reference.ts'
import { LOCAL } from '../../src/storage/metadata/metadata.ts'
import { image, index, type Image } from '../support/images.ts'
import { startLocalRegistry, type LocalRegistry } from '../support/local-registry.ts'
import '../support/folders-last.ts'

/** Short, for a clock that is moved by hand. */
const GRACE = 10
const NAMES = ['team/a', 'team/b']

const shared = { size: 64, seed: 'shared' }
const [one, two] = [image({ layers: [shared, 32], seed: 1 }), image({ layers: [shared, 33], seed: 2 })]
/** They share a layer; an index and an image have a child, and a signature its subject, in common. */
const IMAGES: readonly Image[] = [
  one,
  two,
  index({ images: { arm: one, amd: two } }),
  image({ layers: [8], seed: 'signature', subject: one.manifest, artifactType: 'application/vnd.sig' }),
]

/** The more often it is here, the more often it happens. */
const WHAT = [
  ...(['push', 'push', 'finish', 'finish', 'untag', 'delete', 'pull'] as const),
  ...(['collect', 'collect', 'collect', 'plan', 'wait', 'bury'] as const),
]

const step = fc.record({
  what: fc.constantFrom(...WHAT),
  image: fc.nat(IMAGES.length - 1),
  name: fc.nat(NAMES.length - 1),
  /** Goes on without waiting for it. */
  aside: fc.boolean(),
})
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

class Run {
  readonly #registry: LocalRegistry
  /** How often somebody began, and ended, to take all of a repository away. */
  readonly #burying = new Map<string, number>()
  readonly #buried = new Map<string, number>()

  constructor(registry: LocalRegistry) {
    this.#registry = registry
  }

  async take({ what, image: at, name: of }: Step): Promise<void> {
    const it = IMAGES[at]!
    const name = NAMES[of]!
    const registry = this.#registry
    const pushes = registry.pushes(name)
    if (what === 'collect') await registry.collect()
    else if (what === 'plan') await registry.collect({ dryRun: true })
    else if (what === 'wait') registry.now += GRACE + 1
    else if (what === 'untag') await pushes.deleteManifest(`v${String(at)}` as Reference)
    else if (what === 'delete') await pushes.deleteManifest(it.manifest.digest)
    else if (what === 'pull') await assertWhole(registry, name, it.manifest.digest)
    else if (what === 'bury') {
      this.#burying.set(name, (this.#burying.get(name) ?? 0) + 1)
      await pushes.deleteRepository()
      this.#buried.set(name, (this.#buried.get(name) ?? 0) + 1)
    } else if (what === 'push') await this.#push(name, it, `v${String(at)}`)
    else await this.#finish(name, it, `v${String(at)}`)
  }

  /** Blobs that no manifest has followed yet. */
  async begin(name: string, it: Image): Promise<void> {
    for (const blob of it.blobs) await this.#registry.pushBlob(name, blob)
  }

  /** Of a push that began long ago, if it ever did. @returns why it was refused */
  async #finish(name: string, it: Image, tag: string): Promise<OciError | undefined> {
    try {
      for (const manifest of it.manifests) {
        await this.#registry.pushManifest(name, manifest, manifest === it.manifest ? tag : undefined)
      }
      return undefined
    } catch (error) {
      if (!(error instanceof OciError) || error.code !== 'MANIFEST_BLOB_UNKNOWN') throw error
      return error
    }
  }

  /** As clients do: what is said to be there, or can be mounted, is not sent. */
  async #push(name: string, it: Image, tag: string): Promise<void> {
    const registry = this.#registry
    const from = parseRepositoryName(NAMES.find((other) => other !== name)!)
    const began = { at: registry.now, buried: this.#buried.get(name) }
    for (const blob of it.blobs) {
      if ((await registry.reader(name).headBlob(blob.digest)) !== undefined) continue
      if (await registry.pushes(name).mount(blob.digest, from)) continue
      await registry.pushBlob(name, blob)
    }
    const refused = await this.#finish(name, it, tag)
    // Only the grace period, or somebody who wants all of it gone, takes what the client was told is here.
    const late = registry.now - began.at >= GRACE || this.#burying.get(name) !== began.buried
    if (refused !== undefined && !late) {
      throw new Error(`${name} lost a blob of ${tag} that it had just said to have`, { cause: refused })
    }
  }
}

test('whatever is pushed, mounted, deleted, pulled and collected at once: nothing referenced goes missing', async (t) => {
  const registry = await startLocalRegistry(t, GRACE)
  await fc.assert(
    fc.asyncProperty(
      fc.nat(1),
      fc.array(step, { minLength: 4, maxLength: 20 }),
      fc.scheduler(),
      fc.boolean(),
      async (begun, steps, scheduler, bury) => {
        const run = new Run(registry)
        await run.begin(NAMES[begun]!, IMAGES[begun]!)
        registry.now += GRACE + 1
        const all = async (): Promise<void> => {
          const running: Promise<void>[] = []
          for (const it of steps) {
            const done = run.take(it)
            // Looked at in the end; it may fail before.
            done.catch(() => undefined)
            running.push(done)
            if (!it.aside) await done
          }
          await Promise.all(running)
        }
        registry.turn = () => scheduler.schedule(Promise.resolve())
        await scheduler.waitFor(all())
        registry.turn = () => Promise.resolve()
        await assertAllWhole(registry)
        await assertEmptiesItself(registry, bury)
      },
    ),
    // The seed says all; to shrink it would take minutes of synced writes.
    { numRuns: 40, endOnFailure: true },
  )
  t.pass('in every order')
})

async function assertAllWhole(registry: LocalRegistry): Promise<void> {
  for (const name of NAMES) {
    for (const { manifests } of IMAGES) {
      for (const { digest } of manifests) await assertWhole(registry, name, digest)
    }
  }
}

/** Deletes everything, one repository after the other, and expects the collector to take it all. */
async function assertEmptiesItself(registry: LocalRegistry, bury: boolean): Promise<void> {
  await assertForeseen(registry)
  for (const name of NAMES) {
    const pushes = registry.pushes(name)
    // The index takes its other child along, and the child its signature.
    for (const { manifest } of [IMAGES[2]!, IMAGES[0]!]) await pushes.deleteManifest(manifest.digest)
    registry.now += GRACE + 1
    await assertForeseen(registry)
    if (bury) await pushes.deleteRepository()
    for (const { manifest } of IMAGES) await pushes.deleteManifest(manifest.digest)
    registry.now += GRACE + 1
    await assertForeseen(registry)
  }
  for await (const { digest } of registry.store.list()) throw new Error(`left behind: ${digest}`)
  for (const name of NAMES) {
    const key = { registry: LOCAL, name: parseRepositoryName(name) }
    const manifests = await registry.metadata.manifests.list(key, { limit: 1 })
    const left = [...manifests]
    for (const { blobs } of IMAGES) {
      for (const { digest } of blobs) if (await registry.metadata.blobs.linked(key, digest)) left.push(digest)
    }
    if (left.length > 0) throw new Error(`left in the index of ${name}: ${left.join()}`)
  }
}

/** What a plan says is what a collection does. */
async function assertForeseen(registry: LocalRegistry): Promise<void> {
  const planned = await registry.collect({ dryRun: true })
  const collected = await registry.collect()
  const [expected, found] = [planned, collected].map((list) => list.map((it) => JSON.stringify(it)).sort())
  if (expected!.join() === found!.join()) return
  throw new Error(`planned\n${expected!.join('\n')}\nbut collected\n${found!.join('\n')}`)
}

/**
 * Of a manifest that the repository holds. It may be deleted, and pushed again, while somebody looks: only what is
 * missing time and again is.
 */
async function assertWhole(registry: LocalRegistry, name: string, digest: Digest): Promise<void> {
  let missing: Digest[] = []
  for (let looks = 0; looks < 3; looks++) {
    missing = await missingOf(registry, name, digest)
    if (missing.length === 0) return
  }
  throw new Error(`${digest} in ${name} misses ${missing.join()}`)
}

async function missingOf(registry: LocalRegistry, name: string, digest: Digest): Promise<Digest[]> {
  const reader = registry.reader(name)
  const held = async (): Promise<boolean> => (await reader.headManifest(digest)) !== undefined
  if (!(await held())) return []
  const missing: Digest[] = []
  if ((await reader.manifest(digest)) === undefined) missing.push(digest)
  for (const { role, digest: child } of await registry.metadata.manifests.references(digest)) {
    if (role !== 'manifest' && !(await reader.holds(child))) missing.push(child)
  }
  return (await held()) ? missing : []
}
