/** A real file system of 64 MiB that pushes fill: as far as they may, and what is in the way can be deleted. */
import { statfsSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { eventually } from '../support/app.ts'
import { image, layer, randomBytesOf } from '../support/images.ts'
import { entrepot, Entrepot } from '../support/process.ts'
import { pushBlob, pushManifest, send } from '../support/push.ts'
import { mountTmpfs, needsMount, type Volume } from '../support/tmpfs.ts'

const MiB = 1024 * 1024
const SIZE = 64 * MiB
const MIN_FREE = 20 * MiB

function optionsOf({ folder }: Volume, minFree: string) {
  return {
    dir: folder,
    config: {
      local: ['team/**'],
      cache: { maxSize: '100%', minFree },
      push: { gcGrace: '0s' },
      upstreams: { 'docker.io': { url: 'http://127.0.0.1:9', default: true } },
    },
  }
}

function free({ folder }: Volume): number {
  const { bsize, bavail } = statfsSync(folder)
  return bsize * bavail
}

async function storage({ url }: Entrepot): Promise<unknown> {
  const { body } = await send(`${url}/readyz`, 'GET')
  return (JSON.parse(body.toString()) as { storage: unknown }).storage
}

/** An upload of so many bytes at most, of which it does not tell how many they are. @returns its last status */
async function stream(repository: string, size: number): Promise<{ status: number; location: string }> {
  const begun = await send(`${repository}/blobs/uploads/`, 'POST')
  if (begun.status !== 202) return { status: begun.status, location: '' }
  const location = new URL(String(begun.headers['location']), repository).href
  for (let at = 0; at < size; at += MiB) {
    const { status } = await send(location, 'PATCH', randomBytesOf(MiB, `${location} ${at}`))
    if (status !== 202) return { status, location }
  }
  return { status: 202, location }
}

test('pushes leave what is to be left free, say so, and make room for each other', needsMount, async (t) => {
  using volume = mountTmpfs(SIZE)
  const server = await Entrepot.start(t, optionsOf(volume, '20MiB'))
  const repository = `${server.url}/v2/team/app`
  const small = image({ layers: [MiB], seed: 'small' })
  for (const blob of small.blobs) t.equal((await pushBlob(repository, blob)).status, 201)
  t.equal((await pushManifest(repository, small.manifest, '1')).status, 201)

  const large = layer({ size: 50 * MiB, seed: 'large' })
  const before = free(volume)
  const refused = await send(
    `${repository}/blobs/uploads/?digest=${large.digest}`,
    'POST',
    large.bytes,
  ).catch((error: unknown) => ({ status: String(error) }))
  t.equal(refused.status, 507, 'what was announced and cannot fit')
  t.equal(free(volume), before, 'none of it was taken')
  t.equal(await storage(server), 'ok')

  const filling = await stream(repository, SIZE)
  t.equal(filling.status, 507)
  t.ok(free(volume) > MIN_FREE - 5 * MiB, `${free(volume)} bytes are free`)
  t.equal(await storage(server), 'full')
  const other = image({ layers: [3 * MiB], seed: 'other' })
  for (const blob of other.blobs) t.equal((await pushBlob(repository, blob)).status, 201)
  t.equal((await pushManifest(repository, other.manifest, '2')).status, 201, 'what it left behind has gone')
  t.equal(await storage(server), 'ok')
  t.match(await send(filling.location, 'GET'), { status: 204, headers: { range: '0-0' } })
  await server.program.stop()
})

test('a disk that is full to its last byte can be freed', needsMount, async (t) => {
  using volume = mountTmpfs(SIZE)
  const options = optionsOf(volume, '0B')
  let server = await Entrepot.start(t, options)
  const images = Array.from({ length: 4 }, (_, nth) => image({ layers: [2 * MiB], seed: `image ${nth}` }))
  const repository = (): string => `${server.url}/v2/team/app`
  for (const [nth, it] of images.entries()) {
    for (const blob of it.blobs) t.equal((await pushBlob(repository(), blob)).status, 201)
    t.equal((await pushManifest(repository(), it.manifest, String(nth))).status, 201)
  }
  await eventually('room is reserved', async () => free(volume) < SIZE - 11 * MiB)
  const fill = (): void => {
    for (let size = MiB, nth = 0; size >= 4096; nth++) {
      try {
        writeFileSync(path.join(volume.folder, `ballast-${nth}-${size}-${Date.now()}`), Buffer.alloc(size))
      } catch {
        size /= 2
      }
    }
  }
  const full = async (): Promise<void> => {
    t.equal(free(volume), 0)
    t.equal(
      (await pushBlob(repository(), layer({ size: 5000, seed: 'no room' })).catch(() => undefined))?.status,
      507,
    )
    t.equal(await storage(server), 'full')
  }
  fill()
  await full()
  t.equal((await send(`${repository()}/manifests/0`, 'DELETE')).status, 202)
  t.match(await entrepot(options, 'rm', 'team/app:1'), { code: 0 })
  await server.program.stop()

  fill()
  server = await Entrepot.start(t, options)
  fill()
  t.equal((await send(`${repository()}/manifests/${images[2]!.manifest.digest}`, 'DELETE')).status, 202)
  t.match(await entrepot(options, 'gc'), { code: 0 })
  t.ok(free(volume) > 5 * MiB, 'three images have gone')
  t.equal((await send(`${repository()}/manifests/3`, 'GET')).status, 200)
  t.equal((await pushBlob(repository(), layer({ size: MiB, seed: 'room' }))).status, 201)
  await server.program.stop()
})
