/**
 * docs/configuration.md and config.example.yaml, made from the schema of the configuration.
 *
 * The schema gives the keys, their order, their types (the sentence a person is told when a value is of another kind)
 * and their defaults; configuration-keys.ts gives the meaning; app/reload.ts says which keys wait for a start.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import * as z from 'zod'
import { ONLY_AT_THE_START } from '../../src/app/reload.ts'
import { configSchema } from '../../src/config/schema.ts'
import { KEYS, type KeyText } from './configuration-keys.ts'

const WIDTH = 110

interface Key extends KeyText {
  /** `upstreams.*.url` */
  readonly path: string
  readonly name: string
  readonly schema: z.core.$ZodType
  readonly default: unknown
  readonly required: boolean
  /** Of a section, or of each entry of a map or list of sections. */
  readonly keys: readonly Key[] | undefined
}

function unwrapped(schema: z.core.$ZodType): { inner: z.core.$ZodType; default: unknown } {
  if (schema instanceof z.ZodOptional) return unwrapped(schema.def.innerType)
  if (!(schema instanceof z.ZodPrefault) && !(schema instanceof z.ZodDefault))
    return { inner: schema, default: undefined }
  return { inner: unwrapped(schema.def.innerType).inner, default: schema.def.defaultValue }
}

/** The fields of a section; of a map or list, those of its entries. */
function shapeOf(schema: z.core.$ZodType): Record<string, z.core.$ZodType> | undefined {
  if (schema instanceof z.ZodObject) return schema.shape
  if (schema instanceof z.ZodRecord) return shapeOf(unwrapped(schema.valueType).inner)
  if (schema instanceof z.ZodArray) return shapeOf(unwrapped(schema.element).inner)
  return undefined
}

function keysOf(shape: Record<string, z.core.$ZodType>, prefix: string, used: Set<string>): Key[] {
  return Object.entries(shape).map(([name, schema]) => {
    const at = `${prefix}${name}`
    const { inner, default: standard } = unwrapped(schema)
    const below = shapeOf(inner)
    // Accounts have the keys of the upstream that they are listed in; nothing is said twice.
    const names = Object.keys(below ?? {})
    const repeats = names.length > 0 && names.every((it) => shape[it] === below?.[it])
    const entries = inner instanceof z.ZodObject ? '' : '*.'
    const keys = below && !repeats ? keysOf(below, `${at}.${entries}`, used) : undefined
    const text = KEYS[at]
    used.add(at)
    // A section within a section is told by its keys.
    const isInner = prefix !== '' && keys !== undefined
    if (text === undefined && !isInner)
      throw new Error(`docs/source/configuration-keys.ts: no text for ${at}`)
    const required = !z.safeParse(schema, undefined).success
    return { meaning: '', ...text, path: at, name, schema: inner, required, default: standard, keys }
  })
}

function allKeys(): Key[] {
  const used = new Set<string>()
  const keys = keysOf(configSchema.shape, '', used)
  const unknown = Object.keys(KEYS).filter((it) => !used.has(it))
  if (unknown.length > 0)
    throw new Error(`docs/source/configuration-keys.ts: no such key: ${unknown.join(', ')}`)
  return keys
}

/** What a value of it is, in the words that a mistake in it is reported with. */
function typeOf(schema: z.core.$ZodType): string {
  const result = z.safeParse(schema, Symbol())
  const own = result.error?.issues[0]?.message ?? ''
  const inner = schema instanceof z.ZodArray && !shapeOf(schema) ? `, each ${typeOf(schema.element)}` : ''
  return own + inner
}

/** A value in flow style. */
function yamlOf(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(yamlOf).join(', ')}]`
  if (typeof value === 'string') return /^[\w.][\w./*:-]*$/.test(value) ? value : `'${value}'`
  return JSON.stringify(value)
}

function defaultOf(key: Key): string {
  if (key.required) return 'required'
  if (key.default === undefined) return key.unset === undefined ? '' : `unset: ${key.unset}`
  if (key.path === 'upstreams') return `default ${Object.keys(key.default as object).join(', ')}`
  const { bytes, percent } = key.default as { bytes?: number; percent?: number }
  if (bytes === undefined || percent === undefined) return `default \`${yamlOf(key.default)}\``
  return `default \`${bytes / 2 ** 30}GiB\`, or \`${percent}%\` of the file system where that is less`
}

function wrapped(text: string, width = 120): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(/\s+/)) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = ''
    }
    line += line === '' ? word : ` ${word}`
  }
  return line === '' ? lines : [...lines, line]
}

function markdownOf(key: Key): string[] {
  const paragraphs = [key.meaning, ...(key.more?.split('\n\n') ?? [])].filter((it) => it !== '')
  const prose = paragraphs.flatMap((it) => ['', ...wrapped(it)])
  const isSection = key.schema instanceof z.ZodObject && key.keys?.length !== 0
  const change = ONLY_AT_THE_START.test(key.path) ? 'restart' : 'reload'
  const type = capital(typeOf(key.schema)).replaceAll(/[*_]/g, '\\$&')
  const facts = [type, defaultOf(key), `**${change}**`].filter((it) => it !== '').join(' · ')
  const isTop = !key.path.includes('.')
  const title = isTop ? ['', `## \`${key.name}\``] : ['', `### \`${key.path}\``]
  const head = isTop && isSection ? [...title, ...prose] : [...title, '', facts, ...prose]
  const inner = (key.keys ?? []).flatMap(markdownOf)
  return !isTop && isSection ? inner : [...head, ...inner]
}

/** Without what only a page can show. */
function plain(markdown: string): string {
  return markdown.replaceAll(/\[([^\]]+)\]\([^)]+\)/g, '$1').replaceAll('`', '')
}

function commentOf(key: Key): string {
  const { bytes } = (key.default ?? {}) as { bytes?: number }
  const type = typeOf(key.schema)
  const parts = [key.meaning]
  if (/^(?:one of|a whole number) /.test(type)) parts.push(`${capital(type)}.`)
  if (bytes !== undefined) parts.push(`${capital(defaultOf(key))}.`)
  if (key.unset !== undefined && key.unset !== 'none') parts.push(`Unset: ${key.unset}.`)
  return plain(parts.join(' '))
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** A line, and what it means: behind it where there is room, else above. */
function commented(line: string, comment: string): string[] {
  const indent = /^ */.exec(line)?.[0] ?? ''
  if (comment === '') return [line]
  // One sentence behind a value needs no full stop.
  const short = `${line} # ${comment.includes('. ') ? comment : comment.replace(/\.$/, '')}`
  if (short.length <= WIDTH && !line.endsWith(':')) return [short]
  return [...wrapped(comment, WIDTH - indent.length - 2).map((it) => `${indent}# ${it}`), line]
}

function exampleOf(key: Key, indent: string): string[] {
  const { default: standard, keys, name } = key
  const comment = commentOf(key)
  const line = `${indent}${name}:`
  if (key.example !== undefined) return commented(`${line} ${key.example}`, comment)
  if (keys === undefined) {
    const isSize = typeof standard === 'object' && !Array.isArray(standard)
    return commented(standard === undefined || isSize ? line : `${line} ${yamlOf(standard)}`, comment)
  }
  if (key.schema instanceof z.ZodRecord) {
    const [first = '', ...others] = Object.keys(standard as object)
    const inner = keys.flatMap((it) => exampleOf(it, `${indent}    `))
    return [...commented(line, comment), `  ${first}:`, ...inner, ...others.map((it) => `  ${it}:`)]
  }
  if (key.schema instanceof z.ZodArray) {
    const inner = keys.flatMap((it) => exampleOf(it, '    '))
    const first = inner.findIndex((it) => !it.trim().startsWith('#'))
    const entry = inner.map((it, at) => `#${at === first ? it.replace('    ', '  - ') : it}`)
    return [...commented(`${line} []`, `${comment} Each entry:`), ...entry]
  }
  if (keys.length === 0) return commented(`${line} {}`, comment)
  return [...commented(line, comment), ...keys.flatMap((it) => exampleOf(it, `${indent}  `))]
}

const EXAMPLE_HEAD = `# Every key of entrepot's configuration, with its default. Start with a copy and delete what you leave as it is:
#
#   npm start -- --config config.yaml          or  ENTREPOT_CONFIG=config.yaml npm start
#
# Durations: 500ms 30s 5m 24h 30d. Sizes: 64MiB 50GiB, or plain bytes. A key without a value is unset.
# \${NAME} in any text is taken from the environment ("$\${" is a plain "\${"); quote it inside { }.
# Relative paths begin at the folder entrepot is started in. On SIGHUP a running server reads this file again.
# ENTREPOT_HOST, ENTREPOT_PORT and ENTREPOT_ROOT win over host, port and root below.
# docs/configuration.md says more of each key. This file is generated: npm run docs.`

export function configurationExample(): string {
  const sections = allKeys().map((key) => exampleOf(key, '').join('\n'))
  return `${[EXAMPLE_HEAD, ...sections].join('\n\n')}\n`
}

export function configurationPage(): string {
  const template = readFileSync(path.join(import.meta.dirname, 'configuration.template.md'), 'utf8')
  return template.replace('<!-- keys -->', () => allKeys().flatMap(markdownOf).join('\n').trim())
}
