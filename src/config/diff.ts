/** Differences of two configurations, by key. They are logged, so they never hold a value. */
import { isDeepStrictEqual } from 'node:util'
import type { Config } from './schema.ts'

/** Keys whose value is an object. */
const VALUES = new Set(['maxSize', 'minFree', 'finishAbandoned'])

/** @returns such as `cache.offline`, `upstreams.quay.io` (which only one of the two has), `upstreams.quay.io.deny` */
export function differencesOf(before: Config, after: Config): string[] {
  const keys = differing(byKey(before), byKey(after), '')
  // Every upstream inherits these keys from `cache`: a change of one is not listed again for each upstream.
  const inherited = ['offline', 'tagTtl'].filter((key) => keys.includes(`cache.${key}`))
  return keys.filter((key) => !inherited.some((it) => key.startsWith('upstreams.') && key.endsWith(`.${it}`)))
}

function byKey(config: Config): Record<string, unknown> {
  return { ...config, upstreams: Object.fromEntries(config.upstreams.map((it) => [it.key, it])) }
}

function differing(before: unknown, after: unknown, path: string): string[] {
  if (isDeepStrictEqual(before, after)) return []
  if (!isSection(before) || !isSection(after)) return [path]
  const keys = new Set([...Object.keys(before), ...Object.keys(after)])
  return [...keys].flatMap((key) => {
    const below = path === '' ? key : `${path}.${key}`
    if (!VALUES.has(key)) return differing(before[key], after[key], below)
    return isDeepStrictEqual(before[key], after[key]) ? [] : [below]
  })
}

function isSection(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
