/** Forecast in words of a pull of a mirrored tag or digest, by the plan of `cache/manifests/pull-plan.ts`. */
import { planPull, type PullFacts } from '../../cache/manifests/pull-plan.ts'
import type { Forecast, ImageExplained, TagExplained } from './explanation.ts'
import { spanText } from '../../base/format.ts'
import type { Silence } from './upstream-text.ts'

interface Prospect {
  readonly upstream: string
  readonly reference: string
  readonly facts: PullFacts
  readonly tag: TagExplained | undefined
  readonly image: ImageExplained | undefined
  /** Why upstream cannot be asked anything now. */
  readonly silence: Silence | undefined
  /** Why no manifest would be fetched now, although upstream can be asked. */
  readonly pullsRefused: string | undefined
  /** Why no manifest is fetched while a cached one can answer. */
  readonly pullsSpared: string | undefined
}

export function forecast(prospect: Prospect): Forecast {
  const manifest = manifestForecast(prospect)
  const layers = layersSentence(prospect, manifest)
  return layers === undefined ? manifest : { ...manifest, sentences: [...manifest.sentences, layers] }
}

function manifestForecast(prospect: Prospect): Forecast {
  const { upstream, reference, facts, tag, image, silence, pullsSpared } = prospect
  const here = image?.manifest === 'present'
  const fromHere = 'would be answered from here'
  const plan = planPull(facts)
  if (plan === 'unknown repository') {
    return told('refused', `404: ${upstream} said a short while ago that it has no such repository`)
  }
  if (plan === 'absent') {
    return told('absent', `404: ${upstream} said a short while ago that it has no ${reference}`)
  }
  if (plan === 'fresh') {
    return here && image.held
      ? told('hit', `${fromHere}, without asking ${upstream}`)
      : asking(prospect, 'get', `would fetch the manifest, which is not here, from ${upstream}`)
  }
  if (plan === 'kept') {
    return told('stale', `${fromHere}, marked stale: ${upstream} says that the tag is gone`)
  }
  if (tag === undefined) {
    return here
      ? asking(prospect, 'head', `would ask ${upstream} by HEAD whether this name may have what is here`)
      : asking(prospect, 'get', `would fetch the manifest from ${upstream}`)
  }
  if (tag.goneMsAgo !== undefined) {
    return asking(prospect, 'get', `would ask ${upstream} again, which said that the tag is gone`)
  }
  if (!here) {
    return asking(prospect, 'get', `would ask ${upstream} what the tag is now, and fetch that manifest`)
  }
  if (plan === 'stale') return told('stale', `${fromHere}, marked stale: ${silence?.why ?? ''}`)
  if (plan === 'spared') {
    return told('stale', `${fromHere}, marked stale: the tag has moved, but ${pullsSpared ?? ''}`)
  }
  return revalidating(prospect, tag)
}

/** The forecast where no cached manifest can answer. */
function asking(prospect: Prospect, outcome: 'get' | 'head', sentence: string): Forecast {
  const { silence, pullsRefused } = prospect
  const why = silence?.why ?? (outcome === 'get' ? pullsRefused : undefined)
  return why === undefined ? told(outcome, sentence) : refused(silence, `${why}, and this is not cached`)
}

/** The forecast for a stale tag whose manifest is here. */
function revalidating(prospect: Prospect, { checkedMsAgo }: TagExplained): Forecast {
  const { upstream, facts, silence, pullsSpared } = prospect
  const staleForMs = facts.failingForMs ?? facts.staleForMs ?? 0
  const since = `it was confirmed ${spanText(checkedMsAgo)} ago, more than ${spanText(staleForMs)}`
  if (silence !== undefined) return refused(silence, `${silence.why}, and ${since}`)
  const spared =
    pullsSpared === undefined ? '' : `, and when the tag has moved, to spare a pull: ${pullsSpared}`
  return told(
    'head',
    `would ask ${upstream} by HEAD, which costs no pull, and answer from here when the tag has not moved`,
    checkedMsAgo > staleForMs
      ? `503 if ${upstream} cannot say: ${since}`
      : `would answer stale if ${upstream} cannot say${spared}`,
  )
}

function refused(silence: Silence | undefined, sentence: string): Forecast {
  return silence?.failure === 'denied'
    ? told('refused', `403: ${sentence}`)
    : told('unavailable', `503: ${sentence}`)
}

function told(outcome: Forecast['outcome'], ...sentences: string[]): Forecast {
  return { outcome, sentences }
}

/** @returns what becomes of the blobs; undefined where the manifest does not come */
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
