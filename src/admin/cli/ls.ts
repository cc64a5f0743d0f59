/**
 * `entrepot ls [PREFIX|GLOB]`: lists by name what clients can pull here.
 *
 * A table on a terminal; elsewhere one line per image, its fields separated by tabs: name, digest, bytes, when it was
 * last pulled and when it came (seconds ago), and whether it is cached, pinned or pushed.
 */
import type { ListedImage } from '../images/list.ts'
import { count, shortDigest, sizeText, spanText } from '../../base/format.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'

interface LsOptions extends CommonOptions {
  readonly json?: boolean
}

/** @returns the exit code */
export function ls(pattern: string | undefined, options: LsOptions, io: ProcessIo): Promise<number> {
  const { json = false } = options
  return withOperations(options, io, async (operations, signal) => {
    let images = 0
    for await (const part of operations.ls({ pattern }, signal)) {
      const row = json ? JSON.stringify : io.stdoutIsTty ? terminalRow : tabbedRow
      if (images === 0 && io.stdoutIsTty && !json) io.print(HEADING)
      for (const image of part.images) io.print(row(image))
      images += part.images.length
    }
    if (io.stdoutIsTty && !json) io.print(count(images, 'image'))
    return 0
  })
}

/** Rows are printed as they come, so no column can wait for the longest. */
const COLUMNS = [
  { title: 'NAME', width: 48 },
  { title: 'DIGEST', width: 19 },
  { title: 'SIZE', width: 9, right: true },
  { title: 'PULLED', width: 12, right: true },
  { title: 'AGE', width: 12, right: true },
  { title: 'STATE', width: 0 },
]

const HEADING = terminalLine(...COLUMNS.map(({ title }) => title))

function terminalRow({ name, tag, digest, bytes, pulledMsAgo, ageMs, is }: ListedImage): string {
  const span = (ms: number | undefined): string => (ms === undefined ? '-' : spanText(ms))
  const ref = tag === undefined ? name : `${name}:${tag}`
  const size = bytes === 0 ? '-' : sizeText(bytes)
  return terminalLine(ref, shortDigest(digest), size, span(pulledMsAgo), span(ageMs), is)
}

function terminalLine(...cells: string[]): string {
  return COLUMNS.map(({ width, right }, at) => {
    const cell = cells[at] ?? ''
    return right === true ? cell.padStart(width) : cell.padEnd(width)
  }).join('  ')
}

function tabbedRow({ name, tag, digest, bytes, pulledMsAgo, ageMs, is }: ListedImage): string {
  const seconds = (ms: number | undefined): string =>
    ms === undefined ? '' : String(Math.max(0, Math.floor(ms / 1000)))
  const ref = tag === undefined ? `${name}@${digest}` : `${name}:${tag}`
  return [ref, digest, bytes, seconds(pulledMsAgo), seconds(ageMs), is].join('\t')
}
