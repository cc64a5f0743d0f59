/**
 * What containers/image makes of the answer to a range of several parts.
 *
 * One part for each, in the order in which they were asked for, or everything. A single part without its
 * wrapping is taken for the first one: then the others are missing.
 */
import { expectOk, RefusedError } from './client.ts'
import type { Answer } from './wire.ts'

interface Part {
  readonly start: number
  /** Not in it any more. */
  readonly end: number
}

/** @returns the bytes of each part by its start */
export async function readParts(answer: Answer, wanted: readonly Part[]): Promise<Map<number, Buffer>> {
  const type = answer.header('content-type') ?? ''
  const body = await (await expectOk(answer)).bytes()
  if (answer.status === 200) {
    return new Map(wanted.map(({ start, end }) => [start, body.subarray(start, end)]))
  }
  const boundary = /^multipart\/byteranges; ?boundary="?([^"]+)"?$/.exec(type)?.[1]
  if (boundary === undefined) throw new RefusedError(answer.exchange, `one part for ${String(wanted.length)}`)
  const parts = new Map<number, Buffer>()
  let at = 0
  for (const { start, end } of wanted) {
    const delimiter = `${at === 0 ? '' : '\r\n'}--${boundary}\r\n`
    const headEnd = body.indexOf('\r\n\r\n', at)
    const head = body.subarray(at, Math.max(at, headEnd)).toString('latin1')
    const range = /^content-range: bytes (\d+)-(\d+)\//im.exec(head)
    if (!head.startsWith(delimiter) || Number(range?.[1]) !== start || Number(range?.[2]) !== end - 1) {
      throw new RefusedError(answer.exchange, `no part from ${String(start)} on`)
    }
    at = headEnd + 4 + end - start
    parts.set(start, body.subarray(headEnd + 4, at))
  }
  if (body.subarray(at).toString('latin1') !== `\r\n--${boundary}--\r\n`) {
    throw new RefusedError(answer.exchange, 'more parts than were asked for')
  }
  return parts
}
