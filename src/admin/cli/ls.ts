/**
 * `entrepot ls [PREFIX|GLOB]`: what can be pulled here, by name.
 *
 * A table on a terminal; elsewhere one line per image, its fields separated by tabs: name, digest, bytes, when it was
 * last pulled and when it came (seconds ago), and whether it is cached, pinned or pushed.
 */
import type { ListedImage } from '../images/list.ts'
import { count, sizeText, spanText } from '../../base/format.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'

interface LsOptions extends CommonOptions {
  readonly json?: boolean
}

/** @returns the exit code */
export function ls(pattern: string | undefined, options: LsOptions, edge: ProcessIo): Promise<number> {
  const { json = false } = options
  return withOperations(options, edge, async (keeper, signal) => {
    let images = 0
    for await (const part of keeper.ls({ pattern }, signal)) {
      const row = json ? JSON.stringify : edge.stdoutIsTty ? terminalRow : tabbedRow
      if (images === 0 && edge.stdoutIsTty && !json) edge.print(HEADING)
      for (const image of part.images) edge.print(row(image))
      images += part.images.length
    }
    if (edge.stdoutIsTty && !json) edge.print(count(images, 'image'))
    return 0
  })
}

/** As they come, so no column can wait for the longest. */
const WIDTHS = { name: 48, digest: 19, size: 9, pulled: 12, age: 12 }

const HEADING = terminalLine('NAME', 'DIGEST', 'SIZE', 'PULLED', 'AGE', 'STATE')

function terminalRow(image: ListedImage): string {
  const { name, tag, digest, bytes, pulledMsAgo, ageMs, is } = image
  const short = digest.slice(0, digest.indexOf(':') + 13)
  const span = (ms: number | undefined): string => (ms === undefined ? '-' : spanText(ms))
  return terminalLine(
    tag === undefined ? name : `${name}:${tag}`,
    short,
    bytes === 0 ? '-' : sizeText(bytes),
    span(pulledMsAgo),
    span(ageMs),
    is,
  )
}

function terminalLine(
  name: string,
  digest: string,
  size: string,
  pulled: string,
  age: string,
  state: string,
): string {
  return [
    name.padEnd(WIDTHS.name),
    digest.padEnd(WIDTHS.digest),
    size.padStart(WIDTHS.size),
    pulled.padStart(WIDTHS.pulled),
    age.padStart(WIDTHS.age),
    state,
  ].join('  ')
}

function tabbedRow({ name, tag, digest, bytes, pulledMsAgo, ageMs, is }: ListedImage): string {
  const seconds = (ms: number | undefined): string =>
    ms === undefined ? '' : String(Math.max(0, Math.floor(ms / 1000)))
  const ref = tag === undefined ? `${name}@${digest}` : `${name}:${tag}`
  return [ref, digest, bytes, seconds(pulledMsAgo), seconds(ageMs), is].join('\t')
}
