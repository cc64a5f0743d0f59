/**
 * What a pull of a mirrored tag or digest would do now, without doing it.
 *
 * The rules are those of `cache/manifests/manifest-cache.ts`, in its order; a test holds the two together.
 * docs/architecture.md "Freshness".
 */
import type { Milliseconds } from '../../base/units.ts'
import type { Forecast, ImageExplained, TagExplained } from './explanation.ts'
import { spanText } from '../../base/format.ts'

/** All that decides it. */
interface Prospect {
  readonly upstream: string
  readonly reference: string
  readonly tag: TagExplained | undefined
  readonly image: ImageExplained | undefined
  /**
   * Upstream said a short while ago that there is none: of the whole repository, or of this reference; `kept` where
   * what it named goes on answering all the same.
   */
  readonly absent: 'repository' | 'reference' | 'kept' | undefined
  /** Why nothing can be asked of it now: a clause. */
  readonly silence: { readonly why: string; readonly denied: boolean } | undefined
  /** Why no manifest would be fetched from it now, although it can be asked. */
  readonly pullsRefused: string | undefined
  /** Why none is fetched while something here can answer. */
  readonly pullsSpared: string | undefined
  /** Upstream has told that the tag has moved, and no pull is spent on that now. */
  readonly movedAndSpared: boolean
  /** How long what is old may answer in its place. */
  readonly staleForMs: Milliseconds
}

export function forecast(prospect: Prospect): Forecast {
  const manifest = manifestForecast(prospect)
  const layers = layersSentence(prospect, manifest)
  return layers === undefined ? manifest : { ...manifest, sentences: [...manifest.sentences, layers] }
}

function manifestForecast(prospect: Prospect): Forecast {
  const { upstream, reference, tag, image, absent } = prospect
  if (absent === 'repository') {
    return told('refused', `404: ${upstream} said a short while ago that it has no such repository`)
  }
  if (absent === 'reference') {
    return told('absent', `404: ${upstream} said a short while ago that it has no ${reference}`)
  }
  const here = image?.manifest === 'present'
  if (tag === undefined && here && image.held) return fromHere(upstream)
  if (tag === undefined && here) {
    const may = `would ask ${upstream} by HEAD whether this name may have what is here`
    return asking(prospect, 'head', may)
  }
  if (tag === undefined) return asking(prospect, 'get', `would fetch the manifest from ${upstream}`)
  if (tag.goneMsAgo !== undefined) {
    return asking(prospect, 'get', `would ask ${upstream} again, which said that the tag is gone`)
  }
  if (tag.oldForMs === undefined) {
    if (here && image.held) return fromHere(upstream)
    return asking(prospect, 'get', `would fetch the manifest, which is not here, from ${upstream}`)
  }
  if (!here) {
    return asking(prospect, 'get', `would ask ${upstream} what the tag is now, and fetch that manifest`)
  }
  return absent === 'kept'
    ? told('stale', `would be answered from here, marked stale: ${upstream} says that the tag is gone`)
    : revalidating(prospect, tag)
}

function fromHere(upstream: string): Forecast {
  return told('hit', `would be answered from here, without asking ${upstream}`)
}

/** Nothing here can answer in its place. */
function asking(prospect: Prospect, outcome: 'get' | 'head', sentence: string): Forecast {
  const { silence, pullsRefused } = prospect
  const why = silence?.why ?? (outcome === 'get' ? pullsRefused : undefined)
  if (why === undefined) return told(outcome, sentence)
  return silence?.denied === true
    ? told('refused', `403: ${why}, and this is not cached`)
    : told('unavailable', `503: ${why}, and this is not cached`)
}

/** An old tag whose manifest is here. */
function revalidating(prospect: Prospect, { checkedMsAgo }: TagExplained): Forecast {
  const { upstream, silence, staleForMs, pullsSpared, movedAndSpared } = prospect
  const tooOld = checkedMsAgo > staleForMs
  const since = `it was confirmed ${spanText(checkedMsAgo)} ago, more than ${spanText(staleForMs)}`
  if (silence !== undefined && tooOld) {
    const sentence = `${silence.why}, and ${since}`
    return silence.denied ? told('refused', `403: ${sentence}`) : told('unavailable', `503: ${sentence}`)
  }
  if (silence !== undefined) {
    return told('stale', `would be answered from here, marked stale: ${silence.why}`)
  }
  if (movedAndSpared && !tooOld) {
    const why = pullsSpared ?? ''
    return told('stale', `would be answered from here, marked stale: the tag has moved, but ${why}`)
  }
  return told(
    'head',
    `would ask ${upstream} by HEAD, which costs no pull, and answer from here when the tag has not moved`,
    tooOld
      ? `503 if ${upstream} cannot say: ${since}`
      : `would answer stale if ${upstream} cannot say${
          pullsSpared === undefined ? '' : `, and when the tag has moved, to spare a pull: ${pullsSpared}`
        }`,
  )
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
