/**
 * Lists as a client reads them.
 */
import type { Pulled } from './app.ts'
import type { TwoUpstreams } from './two-upstreams.ts'

export function tagsOf({ body }: Pulled): string[] {
  return (JSON.parse(body.toString()) as { tags: string[] }).tags
}

/** Follows `Link` to the end; every page must be on our own path. */
export async function pagesOf(
  { get }: TwoUpstreams,
  path: string,
  itemsOf: (page: Pulled) => unknown[],
): Promise<unknown[][]> {
  const [endpoint = ''] = path.split('?')
  const pages: unknown[][] = []
  for (let next = path; pages.length < 20;) {
    const page = await get(next)
    if (page.status !== 200) throw new Error(`${next} answered ${page.status}`)
    pages.push(itemsOf(page))
    const link = page.headers['link'] as string | undefined
    if (link === undefined) break
    const target = /^<\/v2\/([^>]+)>; rel="next"$/.exec(link)?.[1]
    if (target?.startsWith(`${endpoint}?`) !== true) throw new Error(`a link to elsewhere: ${link}`)
    next = target
  }
  return pages
}
