/**
 * Builds the programs that the tests with real clients take from the cache folder: `npm run programs`.
 */
import { goInstall } from '../support/go.ts'
import { GO_CLIENTS } from '../support/go-programs.ts'
import { buildSuite } from './conformance.ts'

const wanted: [string, () => Promise<string>][] = [
  ['the conformance suite', buildSuite],
  ...GO_CLIENTS.map((it): [string, () => Promise<string>] => [
    `${Object.keys(it.commands).join(' and ')} ${it.version}`,
    () => goInstall(it),
  ]),
]
for (const [name, build] of wanted) {
  const began = performance.now()
  try {
    const place = await build()
    console.log(`${name}: ${place} (${Math.round((performance.now() - began) / 1000)} s)`)
  } catch (error) {
    // The others are worth having without it.
    console.error(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    process.exitCode = 1
  }
}
