/**
 * Lists that come in pages, as clients read them.
 */
import { PullError, type Answer } from './wire.ts'

/** @throws PullError when that is no list of tags */
export function readTags(bytes: Buffer): readonly string[] {
  try {
    const { tags } = JSON.parse(bytes.toString()) as { tags?: string[] | null }
    return tags ?? []
  } catch {
    throw new PullError('a list of tags that is no JSON')
  }
}

/** The path and the query of the page that follows, which a link names by itself or with the host. */
export function nextPageOf(answer: Answer): string | undefined {
  const target = /^<([^>]+)>/.exec(answer.header('link') ?? '')?.[1]
  if (target === undefined) return undefined
  const url = new URL(target, new URL(answer.exchange.path, 'http://mirror'))
  return `${url.pathname}${url.search}`
}
