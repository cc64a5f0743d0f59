/**
 * Debian's skopeo: by prefix, and by a mirror of its configuration.
 */
import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { missing } from '../../support/programs.ts'
import { command, lists, type Place, type RealClient } from './client.ts'
import { TAGS } from './goods.ts'

export const skopeo: RealClient = {
  name: 'skopeo',
  missing: missing('skopeo'),
  open: async () => [
    {
      kind: 'pull',
      what: 'copy',
      async run(place) {
        await run(place, 'copy', '-q', '--src-tls-verify=false', `docker://${place.name}:1`, 'dir:image')
        assert.ok(readFileSync(join(place.dir, 'image/manifest.json')).equals(place.goods.amd64.bytes))
      },
    },
    {
      kind: 'pull',
      what: 'copy --all',
      async run(place) {
        const all = ['copy', '-q', '--all', '--src-tls-verify=false']
        await run(place, ...all, `docker://${place.name}:1`, 'dir:image')
        assert.ok(readFileSync(join(place.dir, 'image/manifest.json')).equals(place.goods.index.bytes))
      },
    },
    {
      kind: 'pull',
      what: 'copy, of a mirrored registry',
      async run(place) {
        useMirror(place)
        await run(place, 'copy', '-q', `docker://${place.registry}/${place.repository}:1`, 'dir:image')
        assert.ok(readFileSync(join(place.dir, 'image/manifest.json')).equals(place.goods.amd64.bytes))
      },
    },
    {
      kind: 'inspect',
      what: 'inspect',
      async run(place) {
        const told = await run(place, 'inspect', '--tls-verify=false', `docker://${place.name}:1`)
        const { Digest, RepoTags } = JSON.parse(told) as { Digest: string; RepoTags: string[] }
        assert.equal(Digest, place.goods.index.digest)
        lists(RepoTags, TAGS, place)
      },
    },
    {
      kind: 'inspect',
      what: 'inspect --raw',
      async run(place) {
        const told = await run(place, 'inspect', '--raw', '--tls-verify=false', `docker://${place.name}:1`)
        assert.equal(told, place.goods.index.bytes.toString())
      },
    },
    {
      kind: 'list',
      what: 'list-tags',
      async run(place) {
        const told = await run(place, 'list-tags', '--tls-verify=false', `docker://${place.name}`)
        lists((JSON.parse(told) as { Tags: string[] }).Tags, TAGS, place)
      },
    },
    {
      kind: 'list',
      what: 'sync, of a whole repository',
      async run(place) {
        const from = ['--src', 'docker', '--src-tls-verify=false', '--dest', 'dir', place.name]
        await run(place, 'sync', ...from, place.dir)
        const synced = readdirSync(place.dir).flatMap((it) => it.split(':')[1] ?? [])
        lists(synced, TAGS, place)
      },
    },
  ],
}

function run(place: Place, ...args: string[]): Promise<string> {
  return command('skopeo', ['--insecure-policy', ...args], place)
}

/** As docs/clients.md has it. Nobody is at the registry itself: what the mirror refuses is not had elsewhere. */
export function useMirror({ dir, host, registry }: Place): void {
  const folder = join(dir, '.config/containers/registries.conf.d')
  mkdirSync(folder, { recursive: true })
  writeFileSync(
    join(folder, 'entrepot.conf'),
    `[[registry]]
prefix = "${registry}"
location = "127.0.0.1:1"
insecure = true
[[registry.mirror]]
location = "${host}/${registry}"
insecure = true
`,
  )
}
