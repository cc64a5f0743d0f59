/**
 * Debian's podman, with a storage of its own for each command: nothing that it pulled before is there.
 */
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { missingAsRoot } from '../../support/programs.ts'
import { command, lists, type Place, type RealClient } from './client.ts'
import { TAGS } from './goods.ts'
import { useMirror } from './skopeo.ts'

export const podman: RealClient = {
  name: 'podman',
  missing: missingAsRoot('podman'),
  open: async () => [
    {
      kind: 'pull',
      what: 'pull',
      async run(place) {
        const image = `${place.name}:1`
        await run(place, 'pull', '-q', '--tls-verify=false', image)
        await isThere(place, image)
      },
    },
    {
      kind: 'pull',
      what: 'pull, of a mirrored registry',
      async run(place) {
        useMirror(place)
        const image = `${place.registry}/${place.repository}:1`
        await run(place, 'pull', '-q', image)
        await isThere(place, image)
      },
    },
    {
      kind: 'pull',
      what: 'pull, insecure by configuration',
      async run(place) {
        beInsecure(place)
        const image = `${place.name}@${place.goods.index.digest}`
        await run(place, 'pull', '-q', image)
        await isThere(place, image)
      },
    },
    {
      kind: 'inspect',
      what: 'manifest inspect',
      async run(place) {
        beInsecure(place)
        const told = await run(place, 'manifest', 'inspect', `${place.name}:1`)
        assert.ok(told.includes(place.goods.amd64.digest), told)
      },
    },
    {
      kind: 'list',
      what: 'search --list-tags',
      async run(place) {
        const asked = ['search', '--list-tags', '--tls-verify=false', '--format', 'json', place.name]
        const [found] = JSON.parse(await run(place, ...asked)) as { Tags: string[] }[]
        lists(found?.Tags ?? [], TAGS, place)
      },
    },
    {
      kind: 'list',
      what: 'search, for what was pulled',
      async run(place) {
        await run(place, 'pull', '-q', '--tls-verify=false', `${place.name}:1`)
        const name = place.repository.split('/').at(-1) ?? ''
        const asked = ['search', '--tls-verify=false', '--format', '{{.Name}}', `${place.host}/${name}`]
        assert.ok((await run(place, ...asked)).includes(place.repository))
      },
    },
  ],
}

async function isThere(place: Place, image: string): Promise<void> {
  const told = await run(place, 'image', 'inspect', '--format', '{{index .Labels "words"}}', image)
  assert.equal(told.trim(), place.goods.words)
}

function run(place: Place, ...args: string[]): Promise<string> {
  const { dir } = place
  const own = ['--root', join(dir, 'root'), '--runroot', join(dir, 'run'), '--storage-driver', 'vfs']
  return command('podman', [...own, ...args], place)
}

/** As docs/clients.md has it, for whatever has no flag. */
function beInsecure({ dir, host }: Place): void {
  const folder = join(dir, '.config/containers/registries.conf.d')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'entrepot.conf'), `[[registry]]\nlocation = "${host}"\ninsecure = true\n`)
}
