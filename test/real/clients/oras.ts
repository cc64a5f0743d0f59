/**
 * oras, which knows of referrers.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { goProgram, missingGoPrograms } from '../../support/go-programs.ts'
import { command, lists, type Place, type RealClient } from './client.ts'
import { SIGNATURE, TAGS } from './goods.ts'

export const oras: RealClient = {
  name: 'oras',
  missing: missingGoPrograms('oras'),
  open: async () => [
    {
      kind: 'pull',
      what: 'pull',
      async run(place) {
        await run(place, ['pull'], `${place.name}:files`)
        assert.equal(readFileSync(join(place.dir, 'words.txt'), 'utf8'), place.goods.words)
      },
    },
    {
      kind: 'pull',
      what: 'cp --to-oci-layout',
      async run(place) {
        await copy(place, [])
        assert.ok(holds(place, place.goods.amd64.digest))
      },
    },
    {
      kind: 'inspect',
      what: 'resolve',
      async run(place) {
        const told = await run(place, ['resolve'], `${place.name}:1`)
        assert.equal(told.trim(), place.goods.index.digest)
      },
    },
    {
      kind: 'inspect',
      what: 'manifest fetch',
      async run(place) {
        const told = await run(place, ['manifest', 'fetch'], `${place.name}:1`)
        assert.equal(told, place.goods.index.bytes.toString())
      },
    },
    {
      kind: 'list',
      what: 'repo tags',
      async run(place) {
        lists((await run(place, ['repo', 'tags'], place.name)).split('\n'), TAGS, place)
      },
    },
    {
      kind: 'verify',
      what: 'discover',
      async run(place) {
        const told = await run(place, ['discover', '--format', 'json'], `${place.name}:1`)
        assert.deepEqual(referrersOf(told), [place.goods.signature.digest])
      },
    },
    {
      kind: 'verify',
      what: 'discover --artifact-type',
      async run(place) {
        const asked = ['discover', '--format', 'json', '--artifact-type', SIGNATURE]
        assert.deepEqual(referrersOf(await run(place, asked, `${place.name}:1`)), [
          place.goods.signature.digest,
        ])
      },
    },
    {
      kind: 'verify',
      what: 'discover --platform',
      async run(place) {
        const asked = ['discover', '--format', 'json', '--platform', 'linux/amd64']
        assert.deepEqual(referrersOf(await run(place, asked, `${place.name}:1`)), [place.goods.sbom.digest])
      },
    },
    {
      kind: 'verify',
      what: 'pull, of a signature',
      async run(place) {
        await run(place, ['pull'], `${place.name}@${place.goods.signature.digest}`)
        const { words } = JSON.parse(readFileSync(join(place.dir, 'statement.json'), 'utf8')) as {
          words: string
        }
        assert.equal(words, place.goods.words)
      },
    },
    {
      kind: 'verify',
      what: 'cp -r',
      async run(place) {
        await copy(place, ['-r'])
        for (const { digest } of [place.goods.signature, place.goods.sbom])
          assert.ok(holds(place, digest), digest)
      },
    },
  ],
}

function run(place: Place, words: readonly string[], reference: string): Promise<string> {
  return command(goProgram('oras'), [...words, '--plain-http', reference], place)
}

function copy(place: Place, flags: readonly string[]): Promise<string> {
  const words = ['cp', ...flags, '--from-plain-http', `${place.name}:1`, '--to-oci-layout', 'layout:1']
  return command(goProgram('oras'), words, place)
}

function holds({ dir }: Place, digest: string): boolean {
  return existsSync(join(dir, 'layout/blobs', digest.replace(':', '/')))
}

function referrersOf(told: string): string[] {
  return (JSON.parse(told) as { referrers: { digest: string }[] }).referrers.map(({ digest }) => digest)
}
