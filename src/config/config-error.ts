/** Error with all faults of a configuration: each sentence says where, what was found and what was expected. */
import * as z from 'zod'
import { nearest } from './checks.ts'
import type { ConfigProblem, ConfigSource, Path } from './yaml.ts'

export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly problems: readonly ConfigProblem[]

  constructor(problems: readonly ConfigProblem[], file?: string) {
    const sorted = problems.toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0))
    const lines = sorted.map(({ path, line, message }) => {
      const place = [path, line === undefined ? '' : `(line ${line})`].filter((part) => part !== '').join(' ')
      return `  ${place === '' ? '' : `${place}: `}${message}`
    })
    super([`the configuration${file === undefined ? '' : ` ${file}`} is not valid:`, ...lines].join('\n'))
    this.problems = sorted
  }
}

/** @param schema suggests known keys for an unknown one */
export function reportIssue(schema: z.core.$ZodType, source: ConfigSource, issue: z.core.$ZodIssue): void {
  const path = issue.path as Path
  if (issue.code !== 'unrecognized_keys') {
    source.report(path, `found ${source.found(path)}, expected ${issue.message}`)
    return
  }
  const known = keysAt(schema, path)
  for (const key of issue.keys) {
    const near = nearest(key, known)
    const hint = near
      ? `did you mean ${near}?`
      : known.length > 0
        ? `there are ${known.join(', ')}`
        : 'there are none yet'
    source.report([...path, key], `no such key; ${hint}`)
  }
}

/** The keys that a section accepts. */
function keysAt(schema: z.core.$ZodType, path: Path): string[] {
  if (schema instanceof z.ZodPrefault || schema instanceof z.ZodOptional)
    return keysAt(schema.def.innerType, path)
  if (schema instanceof z.ZodRecord) return keysAt(schema.valueType, path.slice(1))
  if (schema instanceof z.ZodArray) return keysAt(schema.element, path.slice(1))
  if (!(schema instanceof z.ZodObject)) return []
  const [first, ...rest] = path
  if (first === undefined) return Object.keys(schema.shape)
  const inner = (schema.shape as Record<string, z.core.$ZodType>)[String(first)]
  return inner === undefined ? [] : keysAt(inner, rest)
}
