/**
 * A real registry with two images, and mirrors before it: what every test with real clients begins with.
 */
import { join } from 'node:path'
import type { Test } from 'tap'
import { Entrepot } from '../support/process.ts'
import { shortDir } from '../support/programs.ts'
import { DockerRegistry } from './daemons.ts'
import { BUSYBOX, pushLayout, writeLayout } from './image.ts'

/** The programs a {@link Harbour} itself needs. */
export const HARBOUR = ['docker-registry', 'skopeo', 'busybox', 'tar']

/** A small one, and one of at least 100 MB. Both print the greeting. */
export const IMAGES = ['library/greeting', 'harbour/large']

export class Harbour {
  readonly #registry: DockerRegistry
  /** Of both images' layers. */
  readonly #bytes: number

  private constructor(registry: DockerRegistry, bytes: number) {
    this.#registry = registry
    this.#bytes = bytes
  }

  static async open(t: Test): Promise<Harbour> {
    const registry = await DockerRegistry.start(t)
    const dir = shortDir(t)
    const small = await writeLayout(join(dir, 'small'), [
      { ...BUSYBOX, 'etc/passwd': { file: '/etc/passwd' } },
    ])
    const large = await writeLayout(join(dir, 'large'), [
      BUSYBOX,
      { 'opt/node': { file: process.execPath } },
      { 'opt/tar': { file: '/bin/tar' } },
    ])
    t.ok(large >= 100_000_000, `the large image has ${large} bytes`)
    await pushLayout(join(dir, 'small'), `${registry.address}/library/greeting:1`)
    await pushLayout(join(dir, 'large'), `${registry.address}/harbour/large:1`)
    return new Harbour(registry, small + large)
  }

  /** An empty entrepot, the registry behind it as Docker Hub and as quay.io. */
  async mirror(t: Test): Promise<Entrepot> {
    // An earlier part of the test has stopped it.
    await this.#registry.start()
    const url = `http://${this.#registry.address}`
    // Every pull of a tag asks upstream, so a dead one is noticed.
    const config = {
      cache: { tagTtl: 0 },
      upstreams: { 'docker.io': { url, default: true }, 'quay.io': { url } },
    }
    return Entrepot.start(t, { dir: shortDir(t), config })
  }

  /**
   * Pulls everything with the registry and without, and looks at where the bytes came from.
   *
   * @param upstream which one the names must have been taken for
   */
  async pullTwice(
    t: Test,
    entrepot: Entrepot,
    upstream: string,
    pull: (image: string) => Promise<void>,
  ): Promise<void> {
    for (const image of IMAGES) await pull(image)
    const received = await entrepot.metric('entrepot_upstream_bytes_total')
    t.ok(received >= this.#bytes, `${received} bytes came from upstream, of ${this.#bytes} in layers`)
    t.ok(received <= this.#bytes * 1.02, 'and no layer came twice')

    await this.#registry.stop()
    const served = await entrepot.metric('entrepot_served_bytes_total')
    for (const image of IMAGES) await pull(image)
    const more = (await entrepot.metric('entrepot_upstream_bytes_total')) - received
    t.equal(more, 0, 'nothing came from upstream')
    const again = (await entrepot.metric('entrepot_served_bytes_total')) - served
    t.ok(again >= this.#bytes, 'all of it came from the cache')

    const pulls = entrepot.log.filter((line) => 'cache' in line)
    t.ok(
      pulls.some(({ cache, status }) => cache === 'stale' && status === 200),
      'tags are answered although stale',
    )
    t.strictSame(
      [...new Set(pulls.map((line) => line['upstream']))],
      [upstream],
      `all was taken for ${upstream}`,
    )
  }
}
