/**
 * helm, which asks for the list of tags unless it is told an exact version.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { goProgram, missingGoPrograms } from '../../support/go-programs.ts'
import { command, type Place, type RealClient } from './client.ts'
import { CHART_VERSIONS, NEWEST_ONE } from './goods.ts'

export const helm: RealClient = {
  name: 'helm',
  missing: missingGoPrograms('helm'),
  open: async () => [
    {
      kind: 'pull',
      what: 'pull, an exact version',
      chart: true,
      run: (place) => pull(place, ['--version', NEWEST_ONE], NEWEST_ONE),
    },
    {
      kind: 'pull',
      what: 'pull, a range of versions',
      chart: true,
      run: (place) => pull(place, ['--version', '^1.0'], NEWEST_ONE),
    },
    {
      kind: 'pull',
      what: 'pull, the newest',
      chart: true,
      run: (place) => pull(place, [], (place.complete ? CHART_VERSIONS.at(-1) : NEWEST_ONE) ?? ''),
    },
    {
      kind: 'pull',
      what: 'template',
      chart: true,
      async run(place) {
        const told = await run(place, 'template', 'release', urlOf(place), '--version', '~1.2')
        assert.match(told, new RegExp(`words: "?this is ${place.repository}`))
      },
    },
    {
      kind: 'inspect',
      what: 'show chart',
      chart: true,
      async run(place) {
        const told = await run(place, 'show', 'chart', urlOf(place), '--version', '1.x')
        assert.match(told, new RegExp(`^version: ${NEWEST_ONE}$`, 'm'))
      },
    },
  ],
}

async function pull(place: Place, flags: readonly string[], version: string): Promise<void> {
  await run(place, 'pull', urlOf(place), ...flags)
  const name = place.repository.split('/').at(-1) ?? ''
  assert.ok(existsSync(join(place.dir, `${name}-${version}.tgz`)), `the chart of version ${version}`)
}

function run(place: Place, ...args: string[]): Promise<string> {
  return command(goProgram('helm'), [...args, '--plain-http'], place)
}

function urlOf({ name }: Place): string {
  return `oci://${name}`
}
