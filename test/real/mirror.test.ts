/**
 * The main job: real clients pull a real registry's images through entrepot, and once more without that registry.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { Entrepot } from '../support/process.ts'
import { missing, missingAsRoot, shortDir, succeed } from '../support/programs.ts'
import { Containerd, Dockerd, DockerRegistry } from './daemons.ts'
import { BUSYBOX, GREETING, pushLayout, writeLayout, type LayerFiles } from './image.ts'

const SMALL: LayerFiles[] = [{ ...BUSYBOX, 'etc/motd': { file: '/etc/hostname' } }]
const LARGE: LayerFiles[] = [
  BUSYBOX,
  { 'opt/node': { file: process.execPath } },
  { 'opt/skopeo': { file: '/usr/bin/skopeo' }, 'opt/tar': { file: '/bin/tar' } },
]
const IMAGES = ['library/greeting', 'harbour/large']

test(
  'real clients pull a real registry through entrepot',
  { skip: missing('docker-registry', 'skopeo', 'busybox') },
  async (t) => {
    t.setTimeout(180_000)
    const registry = await DockerRegistry.start(t)
    const dir = shortDir(t)
    const small = await writeLayout(join(dir, 'small'), SMALL)
    const large = await writeLayout(join(dir, 'large'), LARGE)
    t.ok(large >= 100_000_000, `the large image has ${large} bytes`)
    await pushLayout(join(dir, 'small'), `${registry.address}/${IMAGES[0]}:1`)
    await pushLayout(join(dir, 'large'), `${registry.address}/${IMAGES[1]}:1`)

    /** An empty entrepot, that registry behind it as Docker Hub and as quay.io. */
    async function mirror(t: Test): Promise<Entrepot> {
      const url = `http://${registry.address}`
      // Every pull of a tag asks upstream, so a dead one is noticed.
      const config = {
        cache: { tagTtl: 0 },
        upstreams: { 'docker.io': { url, default: true }, 'quay.io': { url } },
      }
      return Entrepot.start(t, { dir: shortDir(t), config })
    }

    /** Pulls with the registry and without, and looks at where the bytes came from. */
    async function twice(t: Test, entrepot: Entrepot, pull: (image: string) => Promise<void>): Promise<void> {
      for (const image of IMAGES) await pull(image)
      const received = await entrepot.metric('entrepot_upstream_bytes_total')
      t.ok(received >= small + large, `${received} bytes came from upstream, of ${small + large} in layers`)
      t.ok(received <= (small + large) * 1.02, 'and no layer came twice')

      await registry.stop()
      t.teardown(() => registry.start())
      const served = await entrepot.metric('entrepot_served_bytes_total')
      for (const image of IMAGES) await pull(image)
      t.equal(
        await entrepot.metric('entrepot_upstream_bytes_total'),
        received,
        'nothing more came from upstream',
      )
      const again = (await entrepot.metric('entrepot_served_bytes_total')) - served
      t.ok(again >= small + large, 'all of it came from the cache')
      const stale = entrepot.log.filter(({ cache, status }) => cache === 'stale' && status === 200)
      t.ok(stale.length > 0, 'tags are answered although stale')
    }

    await t.test(
      'dockerd, by registry-mirrors',
      { skip: missingAsRoot('dockerd', 'docker', 'containerd', 'runc') },
      async (t) => {
        const entrepot = await mirror(t)
        const dockerd = await Dockerd.start(t, entrepot.url)
        await twice(t, entrepot, async (image) => {
          await dockerd.docker('pull', '-q', `${image}:1`)
          const said = await dockerd.docker('run', '--rm', '--network', 'none', `${image}:1`)
          t.equal(said.trim(), GREETING, `docker run ${image} prints its greeting`)
          await dockerd.docker('rmi', `${image}:1`)
        })
      },
    )

    await t.test('containerd, with ?ns=', { skip: missingAsRoot('containerd', 'ctr') }, async (t) => {
      const entrepot = await mirror(t)
      const containerd = await Containerd.start(t)
      const hosts = `server = "${entrepot.url}"\n[host."${entrepot.url}"]\ncapabilities = ["pull", "resolve"]\n`
      await twice(t, entrepot, async (image) => {
        await containerd.pull(`quay.io/${image}:1`, { _default: hosts })
      })
    })

    await t.test(
      'containerd, with override_path',
      { skip: missingAsRoot('containerd', 'ctr') },
      async (t) => {
        const entrepot = await mirror(t)
        const containerd = await Containerd.start(t)
        const hosts = `server = "http://127.0.0.1:1"
[host."${entrepot.url}/v2/quay.io"]
capabilities = ["pull", "resolve"]
override_path = true
`
        await twice(t, entrepot, async (image) => {
          await containerd.pull(`quay.io/${image}:1`, { 'quay.io': hosts })
        })
      },
    )

    await t.test('skopeo, by the prefix form', async (t) => {
      const entrepot = await mirror(t)
      const out = shortDir(t)
      const manifests: Buffer[] = []
      await twice(t, entrepot, async (image) => {
        const source = `docker://127.0.0.1:${entrepot.port}/quay.io/${image}:1`
        const target = join(out, `${manifests.length}`)
        await succeed('skopeo', [
          '--insecure-policy',
          'copy',
          '-q',
          '--src-tls-verify=false',
          source,
          `dir:${target}`,
        ])
        manifests.push(readFileSync(join(target, 'manifest.json')))
      })
      t.same(manifests[2], manifests[0], 'the manifest is the same to the byte')
    })
  },
)
