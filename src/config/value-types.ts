/** Value types of a configuration, each with the words that say what it expects. */
import type { Bytes, Milliseconds } from '../base/units.ts'
import { isIP } from 'node:net'
import * as z from 'zod'
import { parseDuration, parsePercent, parseSize } from './units.ts'

/** @param expected completes the message "expected …" where `parse` returns undefined */
export function leaf<T>(expected: string, parse: (value: unknown) => T | undefined) {
  return z.unknown().transform((value, context): T => {
    const parsed = parse(value)
    if (parsed !== undefined) return parsed
    context.addIssue({ code: 'custom', message: expected })
    return z.NEVER
  })
}

export const text = (expected: string, pattern = /^.+$/s) =>
  leaf(expected, (value) => (typeof value === 'string' && pattern.test(value) ? value : undefined))
export const path = () => text('a path')
export const oneOf = <const T extends string>(...words: T[]) =>
  leaf(`one of ${words.join(', ')}`, (value) => words.find((word) => word === value))

// Numbers and switches may also be texts, for a variable such as `${PORT}` becomes one.
export const integer = (min: number, max: number) =>
  leaf(`a whole number from ${min} to ${max}`, (value) => {
    const number = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
    return typeof number === 'number' && Number.isInteger(number) && number >= min && number <= max
      ? number
      : undefined
  })
export const flag = () =>
  leaf('true or false', (value) =>
    value === true || value === 'true' ? true : value === false || value === 'false' ? false : undefined,
  )

const YEARS = 10 * 365 * 86_400_000
export const duration = () =>
  leaf<Milliseconds>('a duration such as 500ms, 30s, 5m, 24h or 30d', (value) => {
    const ms = parseDuration(value)
    return ms !== undefined && ms <= YEARS ? ms : undefined
  })
/** The time limit of one wait; a timer cannot be set for more than 24 days. */
export const timeout = () =>
  leaf<Milliseconds>('a duration from 1ms to 1h', (value) => {
    const ms = parseDuration(value)
    return ms !== undefined && ms >= 1 && ms <= 3_600_000 ? ms : undefined
  })
export const size = (min = 0) =>
  leaf<Bytes>(`a size such as 64MiB or 50GiB${min > 0 ? `, at least ${min} bytes` : ''}`, (value) => {
    const bytes = parseSize(value)
    return bytes !== undefined && bytes >= min ? bytes : undefined
  })
/** A size or a share; where both are set, the smaller one holds. */
export const budget = () =>
  leaf('a size such as 50GiB, or a share of the file system such as 80%', (value) => {
    const percent = parsePercent(value)
    const bytes = parseSize(value)
    return percent === undefined && bytes === undefined ? undefined : { bytes, percent }
  })

export const globs = (expected: string, pattern: RegExp) =>
  z.array(text(expected, pattern), 'a list of globs')
export const nameGlobs = () => globs('a glob over repository names, such as team/**', /^[a-z0-9._/*-]+$/)

export const network = () =>
  leaf('an IP address, or a network such as 10.0.0.0/8', (value) => {
    if (typeof value !== 'string') return undefined
    const [address = '', bits = '0', ...more] = value.split('/')
    // Addresses of one interface (fe80::1%eth0) are refused, because peers are compared as plain addresses.
    const most = address.includes('%') ? -1 : ({ 4: 32, 6: 128 }[isIP(address)] ?? -1)
    return more.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= most ? value : undefined
  })

/** An http(s) URL that is nothing but an origin. */
export const origin = () =>
  leaf('an http or https URL with host and port only, such as https://quay.io', (value) => {
    const url = httpUrl(value)
    if (!url || url.pathname !== '/' || url.search || url.hash || url.username || url.password)
      return undefined
    return url.origin
  })
export const proxy = () =>
  leaf('the URL of an http or https proxy, such as http://proxy.example:3128', (value) => {
    const url = httpUrl(value)
    return !url || url.pathname !== '/' || url.search || url.hash ? undefined : url.href
  })

/** A URL that the notifier posts events to; it may have a path and a query. */
export const endpoint = () =>
  leaf('an http or https URL without a user name, such as https://hooks.example/registry', (value) => {
    const url = httpUrl(value)
    return !url || url.hash || url.username || url.password ? undefined : url.href
  })
/** RFC 9110 § 5.5: the printable characters that a header may have. */
const HEADER_VALUE = /^[\x20-\x7e]+$/
export const headerValue = () =>
  leaf('a printable text, or a list of such', (value) => {
    const texts: unknown[] = Array.isArray(value) ? value : [value]
    const sound = texts.every((it): it is string => typeof it === 'string' && HEADER_VALUE.test(it))
    return sound ? texts : undefined
  })

function httpUrl(value: unknown): URL | undefined {
  const url = typeof value === 'string' ? URL.parse(value) : null
  return url && (url.protocol === 'http:' || url.protocol === 'https:') && url.hostname ? url : undefined
}

export const section = <T extends z.core.$ZodLooseShape>(shape: T) =>
  z.strictObject(shape, 'a map of settings')
