/** An event and what it tells of are one commit: neither is ever there without the other. */
import { test } from 'tap'
import type { Events } from '../../../src/registry/notifications/event.ts'
import { parseRepositoryName, parseTag } from '../../../src/oci/reference.ts'
import { LOCAL } from '../../../src/storage/metadata/metadata.ts'
import { image, layer } from '../../support/images.ts'
import { startLocalRegistry } from '../../support/local-registry.ts'
import '../../support/folders-last.ts'

const unwilling: Events['queue'] = () => {
  throw new Error('no room for events')
}

test('a write that cannot be told of does not happen', async (t) => {
  const registry = await startLocalRegistry(t)
  const app = image({ layers: [10], seed: 'app' })
  await registry.pushImage('team/app', app, 'v1')
  const unnamed = layer({ size: 20, seed: 'unnamed' })
  await registry.pushBlob('team/app', unnamed)
  const other = image({ layers: [10], seed: 'other' })
  const [blob] = app.layers
  const key = { registry: LOCAL, name: parseRepositoryName('team/app') }
  const tag = parseTag('v1')
  const pushes = registry.pushes('team/app')
  registry.tell = unwilling

  const refused = { message: 'no room for events' }
  const added = layer({ size: 20, seed: 'added' })
  await t.rejects(registry.pushBlob('team/app', added))
  t.notOk(await registry.metadata.blobs.linked(key, added.digest))
  await t.rejects(registry.pushes('team/b').mount(app.config.digest, key.name), refused)
  t.notOk(await registry.reader('team/b').holds(app.config.digest))
  await t.rejects(registry.pushManifest('team/app', other.manifest, 'v1'))
  await t.rejects(registry.pushManifest('team/app', app.manifest, 'v2'), refused)
  t.same(await registry.metadata.tags.list(key, { limit: 10 }), [tag])
  await t.rejects(pushes.deleteManifest(tag), refused)
  await t.rejects(pushes.deleteManifest(app.manifest.digest), refused)
  t.equal((await registry.metadata.tags.get(key, tag))?.digest, app.manifest.digest)
  await t.rejects(pushes.deleteBlob(unnamed.digest), refused)
  t.ok(await registry.metadata.blobs.linked(key, unnamed.digest))
  await t.rejects(pushes.deleteRepository(), refused)
  t.equal((await registry.metadata.repositories.get(key))?.deletedAt, undefined)
  t.ok(blob && (await registry.reader('team/app').holds(blob.digest)))
})

test('what changes nothing is not told', async (t) => {
  const registry = await startLocalRegistry(t)
  const told: string[] = []
  registry.tell = (_tx, happenings) => void told.push(...happenings.map(({ action }) => action))
  const app = image({ layers: [10], seed: 'app' })
  await registry.pushImage('team/app', app, 'v1')
  t.equal(told.splice(0).length, app.blobs.length + 1)
  const pushes = registry.pushes('team/app')
  t.notOk(await pushes.deleteManifest(parseTag('v2')))
  t.notOk(await pushes.deleteBlob(layer({ size: 1 }).digest))
  t.notOk(await pushes.mount(layer({ size: 1 }).digest, parseRepositoryName('team/b')))
  t.notOk(await registry.pushes('team/b').deleteRepository())
  t.same(told, [])
  t.ok(await pushes.deleteRepository())
  t.same(told, ['delete'])
})
