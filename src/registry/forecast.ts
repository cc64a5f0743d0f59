/**
 * What a pull of a mirrored tag or digest would do now, without doing it.
 *
 * The rules are those of `cache/manifest-cache.ts`, in its order; a test holds the two together. DESIGN "Freshness".
 */
import type { Forecast, ImageExplained, TagExplained } from './explanation.ts'
import { spanText } from './words.ts'

type Milliseconds = number

/** All that decides it. */
export interface Prospect {
  readonly upstream: string
  readonly reference: string
  readonly tag: TagExplained | undefined
  readonly image: ImageExplained | undefined
  /** Upstream said a short while ago that there is none; of the whole repository, or of this reference. */
  readonly absent: 'repository' | 'reference' | undefined
  /** Why nothing can be asked of it now: a clause. */
  readonly silence: { readonly why: string; readonly denied: boolean } | undefined
  /** How long what is old may answer in its place. */
  readonly staleForMs: Milliseconds
  /** Pulls that are left are to be kept for what is not here at all. */
  readonly sparing?: string | undefined
}

export function forecast(prospect: Prospect): Forecast {
  const manifest = manifestForecast(prospect)
  const layers = layersSentence(prospect, manifest)
  return layers === undefined ? manifest : { ...manifest, sentences: [...manifest.sentences, layers] }
}

function manifestForecast(prospect: Prospect): Forecast {
  const { upstream, reference, tag, image, absent, silence } = prospect
  if (absent === 'repository') {
    return told('refused', `404: ${upstream} said a short while ago that it has no such repository`)
  }
  if (absent === 'reference') {
    return told('absent', `404: ${upstream} said a short while ago that it has no ${reference}`)
  }
  const here = image?.manifest === 'present'
  if (tag === undefined || tag.goneMsAgo !== undefined) {
    // By digest, or a tag that is not known: what is held answers, all else is asked for.
    if (image?.held === true && here && tag === undefined) return fromHere(upstream)
    if (silence !== undefined) return cannot(prospect)
    if (tag !== undefined) return told('get', `would ask ${upstream} again, which said that the tag is gone`)
    if (here) return told('head', `would ask ${upstream} by HEAD whether this name may have what is here`)
    return told('get', `would fetch the manifest from ${upstream}`)
  }
  if (tag.oldForMs === undefined) {
    if (image?.held === true && here) return fromHere(upstream)
    if (silence !== undefined) return cannot(prospect)
    return told('get', `would fetch the manifest, which is not here, from ${upstream}`)
  }
  if (!here) {
    if (silence !== undefined) return cannot(prospect)
    return told('get', `would ask ${upstream} what the tag is now, and fetch that manifest`)
  }
  if (silence !== undefined) return stale(prospect, tag)
  const allowed = tag.checkedMsAgo <= prospect.staleForMs
  return told(
    'head',
    `would ask ${upstream} by HEAD, which costs no pull, and answer from here when the tag has not moved`,
    allowed
      ? `would answer stale if ${upstream} cannot say`
      : `503 if ${upstream} cannot say: it was confirmed too long ago to be answered stale`,
    ...(prospect.sparing === undefined
      ? []
      : [`would answer stale also when the tag has moved: ${prospect.sparing}`]),
  )
}

function fromHere(upstream: string): Forecast {
  return told('hit', `would be answered from here, without asking ${upstream}`)
}

function stale({ upstream, silence, staleForMs }: Prospect, tag: TagExplained): Forecast {
  if (tag.checkedMsAgo > staleForMs) {
    const { why = '' } = silence ?? {}
    const limit = spanText(staleForMs)
    const sentence = `${why}, and what is here was confirmed ${spanText(tag.checkedMsAgo)} ago, more than ${limit}`
    return silence?.denied === true
      ? told('refused', `403: ${sentence}`)
      : told('unavailable', `503: ${sentence}`)
  }
  return told(
    'stale',
    `would be answered from here, marked stale: ${silence?.why ?? `${upstream} cannot say`}`,
  )
}

function cannot({ silence }: Prospect): Forecast {
  const { why = '', denied = false } = silence ?? {}
  return denied
    ? told('refused', `403: ${why}, and this is not cached`)
    : told('unavailable', `503: ${why}, and this is not cached`)
}

function told(outcome: Forecast['outcome'], ...sentences: string[]): Forecast {
  return { outcome, sentences }
}

/** What becomes of the blobs; nothing where the manifest does not come. */
function layersSentence({ upstream, image, silence }: Prospect, { outcome }: Forecast): string | undefined {
  if (image === undefined || ['absent', 'refused', 'unavailable'].includes(outcome)) return undefined
  const { parts, platforms } = image
  if (platforms.length > 0) {
    const complete = platforms.filter(({ state }) => state === 'present').map(({ platform }) => platform)
    if (complete.length === platforms.length) return 'every platform is here in full'
    const rest =
      silence === undefined ? `the rest would come from ${upstream}` : 'the rest cannot be had now: 503'
    return complete.length === 0
      ? `no platform is here in full; ${rest}`
      : `here in full: ${complete.join(', ')}; ${rest}`
  }
  const wanted = parts.filter(({ foreign }) => foreign !== true)
  if (wanted.length === 0) return undefined
  const lacking = wanted.filter(({ state }) => state !== 'present')
  if (lacking.length === 0) return 'config and layers are here'
  const coming = lacking.filter(({ state }) => state === 'fetching').length
  const corrupt = lacking.find(({ silentForMs }) => silentForMs !== undefined)?.silentForMs
  const what = `${lacking.length} of ${wanted.length} blobs are not here`
  if (corrupt !== undefined) {
    return `${what}, and ${upstream} sent wrong bytes for one: 502 for another ${spanText(corrupt)}`
  }
  if (silence !== undefined && coming < lacking.length) return `${what} and cannot be had now: 503 for them`
  if (coming === lacking.length) return `${what} yet; they are being fetched, and a client would join`
  return `${what} and would be fetched from ${upstream}${coming > 0 ? `; ${coming} are on their way` : ''}`
}
