/**
 * `entrepot explain REF`: which rule takes the name, what of it is here, and what a pull would do now.
 *
 * Sentences for people; `--json` prints what `GET /_entrepot/explain` answers.
 */
import type { Explanation, ImageExplained, PartExplained, TagExplained } from '../explain/explanation.ts'
import { shortDigest, sizeText, spanText } from '../../base/format.ts'
import { plainLine } from '../../telemetry/control-characters.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'

interface ExplainOptions extends CommonOptions {
  readonly ns?: string
  readonly json?: boolean
}

/** @returns the exit code */
export function explain(ref: string, options: ExplainOptions, io: ProcessIo): Promise<number> {
  const { ns: namespace, json = false } = options
  return withOperations(options, io, async (operations, signal) => {
    for await (const it of operations.explain({ ref, namespace }, signal)) {
      if (json) io.print(JSON.stringify(it, undefined, 2))
      else for (const line of lines(it)) io.print(plainLine(line))
    }
    return 0
  })
}

function* lines({ ref, route, pull, tag, image, lists, keeping, upstream }: Explanation): Generator<string> {
  const at = ref.reference.includes(':') ? '@' : ':'
  yield `${route.listedAs ?? ref.name}${at}${ref.reference}`
  yield* section('name', [route.number === undefined ? route.why : `rule ${route.number}: ${route.why}`])
  yield* section('pull', pull.sentences)
  if (tag !== undefined) yield* section('tag', [tagSentence(tag)])
  if (image !== undefined) yield* section('image', imageSentences(image))
  if (lists !== undefined) yield* section('lists', lists.sentences)
  if (keeping !== undefined) yield* section('keeping', [keeping.sentence])
  if (upstream !== undefined) yield* section('upstream', upstream.sentences)
  if (image !== undefined) yield* rows(image)
}

const INDENT = 10

function* section(title: string, sentences: readonly string[]): Generator<string> {
  for (const [at, sentence] of sentences.entries()) {
    yield `  ${(at === 0 ? title : '').padEnd(INDENT)}${sentence}`
  }
}

function tagSentence({
  digest,
  checkedMsAgo,
  freshForMs,
  oldForMs,
  immutable,
  goneMsAgo,
}: TagExplained): string {
  const what = `${shortDigest(digest)}, confirmed ${spanText(checkedMsAgo)} ago`
  if (goneMsAgo !== undefined) return `${what}; gone upstream since ${spanText(goneMsAgo)} ago`
  if (immutable === true) return `${what}, and never asked about again: \`immutableTags\``
  if (freshForMs !== undefined) return `${what}, believed for another ${spanText(freshForMs)}`
  if (oldForMs !== undefined) return `${what}, to be asked about again since ${spanText(oldForMs)} ago`
  return `${shortDigest(digest)}, pushed ${spanText(checkedMsAgo)} ago`
}

function imageSentences(image: ImageExplained): string[] {
  const { digest, mediaType, size, manifest, pulledMsAgo, storedMsAgo, totals } = image
  const foreign = 'not of this repository, as far as is known here'
  // Nothing else is told of an image that only other names hold.
  if (!image.held && size === undefined) return [`${shortDigest(digest)}: ${manifest}; ${foreign}`]
  const kind = mediaType ?? 'of an unknown type'
  const facts = [
    `${shortDigest(digest)}, ${kind}${size === undefined ? '' : `, ${sizeText(size)}`}: ${manifest}`,
    ...(image.held ? [] : [foreign]),
  ]
  const times = [
    ...(pulledMsAgo === undefined ? [] : [`last pulled ${spanText(pulledMsAgo)} ago`]),
    ...(storedMsAgo === undefined ? [] : [`here for ${spanText(storedMsAgo)}`]),
  ]
  const { presentBytes, missingBytes } = totals
  const lacking = missingBytes > 0 ? `, ${sizeText(missingBytes)} of what it is known to name are not` : ''
  return [
    facts.join('; '),
    `${sizeText(presentBytes)} are here${lacking}`,
    ...(times.length > 0 ? [times.join(', ')] : []),
  ]
}

function* rows({ platforms, parts }: ImageExplained): Generator<string> {
  if (platforms.length + parts.length > 0) yield ''
  const width = Math.max(8, ...platforms.map(({ platform }) => platform.length))
  for (const { platform, digest, state, presentBytes, missingBytes } of platforms) {
    const lacks =
      missingBytes === undefined || missingBytes === 0 ? '' : `, ${sizeText(missingBytes)} missing`
    const size = presentBytes === 0 ? '-' : sizeText(presentBytes)
    yield `  ${platform.padEnd(width)}  ${shortDigest(digest)}  ${size.padStart(9)}  ${state}${lacks}`
  }
  for (const part of parts) {
    yield `  ${part.role.padEnd(width)}  ${shortDigest(part.digest)}  ${(part.size === undefined ? '-' : sizeText(part.size)).padStart(9)}  ${partWords(part)}`
  }
}

function partWords(part: PartExplained): string {
  const { state, fetching, found, inUse, unconfirmed, silentForMs, foreign, size } = part
  const words: string[] = [state === 'missing' && foreign === true ? 'kept by no registry' : state]
  if (fetching !== undefined) {
    const share = size === undefined || size === 0 ? '' : ` (${Math.floor((fetching.bytes / size) * 100)}%)`
    words[0] = fetching.queued
      ? 'waits for its turn to be fetched'
      : `fetching: ${sizeText(fetching.bytes)}${share}`
  }
  if (found !== undefined) words.push(`its file has ${sizeText(found)}`)
  if (inUse === true && fetching === undefined) words.push('in use')
  if (unconfirmed === true) words.push('upstream has to say first that this name may have it')
  if (silentForMs !== undefined)
    words.push(`wrong bytes came; not asked for again for ${spanText(silentForMs)}`)
  return words.join('; ')
}
