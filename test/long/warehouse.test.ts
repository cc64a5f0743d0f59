/**
 * That what the bench fills a folder with is what entrepot itself would have written there.
 */
import { join } from 'node:path'
import { test } from 'tap'
import { fillWarehouse } from '../../bench/support/warehouse.ts'
import { digestOf } from '../../src/oci/digest.ts'
import { pull } from '../support/app.ts'
import { Entrepot } from '../support/process.ts'

/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:9'

test('every tag of a generated folder is served, with all that it names', async (t) => {
  const dir = t.testdir()
  const root = join(dir, 'data')
  const made = await fillWarehouse({
    ...{ root, blobs: 2_000, tags: 120, repositories: 40, pushed: 4, layers: 'sparse' },
  })
  t.ok(made.blobs >= 2_000)
  const keys = ['docker.io', 'quay.io', 'ghcr.io']
  const entrepot = await Entrepot.start(t, {
    dir,
    config: {
      storage: { root },
      cache: { tagTtl: '1h', maxSize: '100GiB', minFree: '1MiB' },
      upstreams: Object.fromEntries(keys.map((key) => [key, { url: NOWHERE }])),
    },
  })
  const catalog = await pull(`${entrepot.url}/v2/_catalog?n=1000`)
  const { repositories } = JSON.parse(catalog.body.toString()) as { repositories: string[] }
  t.same([...repositories].sort(), made.names.map(({ name }) => name).sort())
  for (const { name, tags } of made.names) {
    for (const tag of tags) {
      const index = await pull(`${entrepot.url}/v2/${name}/manifests/${tag}`)
      t.equal(index.status, 200, `${name}:${tag}`)
      t.equal(digestOf(index.body), index.headers['docker-content-digest'])
      const [child] = (JSON.parse(index.body.toString()) as { manifests: { digest: string }[] }).manifests
      const manifest = await pull(`${entrepot.url}/v2/${name}/manifests/${child!.digest}`)
      const { config, layers } = JSON.parse(manifest.body.toString()) as Named
      const body = await pull(`${entrepot.url}/v2/${name}/blobs/${config.digest}`)
      t.equal(digestOf(body.body), config.digest)
      for (const { digest, size } of layers) {
        const head = await pull(`${entrepot.url}/v2/${name}/blobs/${digest}`, {}, 'HEAD')
        if (head.headers['content-length'] !== String(size)) t.fail(`${name} lacks ${digest}`)
      }
    }
  }
})

interface Named {
  readonly config: { readonly digest: string }
  readonly layers: readonly { readonly digest: string; readonly size: number }[]
}
