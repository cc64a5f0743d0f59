/**
 * crane, of go-containerregistry.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { goProgram, missingGoPrograms } from '../../support/go-programs.ts'
import { succeed } from '../../support/programs.ts'
import { command, lists, type Place, type RealClient } from './client.ts'
import { TAGS } from './goods.ts'

export const crane: RealClient = {
  name: 'crane',
  missing: missingGoPrograms('crane'),
  open: async () => [
    {
      kind: 'pull',
      what: 'pull',
      async run(place) {
        await run(place, 'pull', '--platform=linux/amd64', `${place.name}:1`, 'image.tar')
        await succeed('tar', ['-tf', join(place.dir, 'image.tar')])
      },
    },
    {
      kind: 'pull',
      what: 'pull --format=oci',
      async run(place) {
        await run(place, 'pull', '--format=oci', `${place.name}:1`, 'layout')
        const [, hex = ''] = place.goods.index.digest.split(':')
        assert.ok(readFileSync(join(place.dir, 'layout/blobs/sha256', hex)).equals(place.goods.index.bytes))
      },
    },
    {
      kind: 'pull',
      what: 'export',
      async run(place) {
        await run(place, 'export', '--platform=linux/amd64', `${place.name}:1`, 'files.tar')
        const text = await succeed('tar', ['-xOf', join(place.dir, 'files.tar'), 'greeting.txt'])
        assert.equal(text, place.goods.words)
      },
    },
    {
      kind: 'inspect',
      what: 'digest',
      async run(place) {
        const told = await run(place, 'digest', `${place.name}:1`)
        assert.equal(told.trim(), place.goods.index.digest)
      },
    },
    {
      kind: 'inspect',
      what: 'manifest',
      async run(place) {
        const told = await run(place, 'manifest', `${place.name}@${place.goods.index.digest}`)
        assert.equal(told.trim(), place.goods.index.bytes.toString())
      },
    },
    {
      kind: 'inspect',
      what: 'config',
      async run(place) {
        const told = await run(place, 'config', '--platform=linux/amd64', `${place.name}:1`)
        const { config } = JSON.parse(told) as { config: { Labels: { words: string } } }
        assert.equal(config.Labels.words, place.goods.words)
      },
    },
    {
      kind: 'list',
      what: 'ls',
      async run(place) {
        lists((await run(place, 'ls', place.name)).split('\n'), TAGS, place)
      },
    },
    {
      kind: 'verify',
      what: 'validate',
      async run(place) {
        const told = await run(place, 'validate', '--platform=linux/amd64', '--remote', `${place.name}:1`)
        assert.match(told, /PASS/)
      },
    },
  ],
}

function run(place: Place, ...args: string[]): Promise<string> {
  return command(goProgram('crane'), ['--insecure', ...args], place)
}
