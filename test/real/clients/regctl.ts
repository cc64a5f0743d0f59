/**
 * regctl, of regclient: it knows of referrers, and of the tags that were there before them.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { goProgram, missingGoPrograms } from '../../support/go-programs.ts'
import { command, lists, type Place, type RealClient } from './client.ts'
import { TAGS } from './goods.ts'

export const regctl: RealClient = {
  name: 'regctl',
  missing: missingGoPrograms('regctl'),
  open: async () => [
    {
      kind: 'pull',
      what: 'image copy',
      async run(place) {
        await run(place, 'image', 'copy', `${place.name}:1`, 'ocidir://layout:1')
        assert.ok(holds(place, place.goods.amd64.digest))
      },
    },
    {
      kind: 'pull',
      what: 'image get-file',
      async run(place) {
        const of = ['image', 'get-file', '--platform', 'linux/amd64', `${place.name}:1`]
        assert.equal(await run(place, ...of, 'greeting.txt'), place.goods.words)
      },
    },
    {
      kind: 'inspect',
      what: 'image digest',
      async run(place) {
        const told = await run(place, 'image', 'digest', `${place.name}:1`)
        assert.equal(told.trim(), place.goods.index.digest)
      },
    },
    {
      kind: 'inspect',
      what: 'manifest get',
      async run(place) {
        const told = await run(place, 'manifest', 'get', '--format', 'raw-body', `${place.name}:1`)
        assert.equal(told, place.goods.index.bytes.toString())
      },
    },
    {
      kind: 'inspect',
      what: 'image inspect',
      async run(place) {
        const told = await run(place, 'image', 'inspect', '--platform', 'linux/amd64', `${place.name}:1`)
        const { config } = JSON.parse(told) as { config: { Labels: { words: string } } }
        assert.equal(config.Labels.words, place.goods.words)
      },
    },
    {
      kind: 'list',
      what: 'tag ls',
      async run(place) {
        lists((await run(place, 'tag', 'ls', place.name)).split('\n'), TAGS, place)
      },
    },
    {
      kind: 'verify',
      what: 'artifact list',
      async run(place) {
        const told = await run(place, 'artifact', 'list', '--format', 'body', `${place.name}:1`)
        const { manifests } = JSON.parse(told) as { manifests: { digest: string }[] }
        assert.deepEqual(
          manifests.map(({ digest }) => digest),
          [place.goods.signature.digest],
        )
      },
    },
    {
      kind: 'verify',
      what: 'artifact tree --digest-tags',
      async run(place) {
        const told = await run(place, 'artifact', 'tree', '--digest-tags', `${place.name}:1`)
        for (const { digest } of [place.goods.signature, place.goods.sbom])
          assert.ok(told.includes(digest), told)
      },
    },
    {
      kind: 'verify',
      what: 'image copy --referrers --digest-tags',
      async run(place) {
        const all = ['image', 'copy', '--referrers', '--digest-tags']
        await run(place, ...all, `${place.name}:1`, 'ocidir://layout:1')
        for (const { digest } of [place.goods.signature, place.goods.sbom])
          assert.ok(holds(place, digest), digest)
      },
    },
  ],
}

function run(place: Place, ...args: string[]): Promise<string> {
  return command(goProgram('regctl'), ['--host', `reg=${place.host},tls=disabled`, ...args], place)
}

function holds({ dir }: Place, digest: string): boolean {
  return existsSync(join(dir, 'layout/blobs', digest.replace(':', '/')))
}
