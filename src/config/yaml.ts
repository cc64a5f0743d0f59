/**
 * Configuration text as a tree of plain values that still knows where each came from.
 *
 * Null is dropped (it means unset), `${VAR}` is filled in from the environment. An error message shows the operator
 * what the file says, so it never prints a value from the environment.
 */
import { isMap, isScalar, isSeq, LineCounter, parseDocument, type Document } from 'yaml'

export interface ConfigProblem {
  /** The place in the tree: `cache.tagTtl`; empty for the file as a whole. */
  readonly path: string
  readonly line: number | undefined
  /** A sentence: what was found and what is expected. */
  readonly message: string
}

export type Path = readonly (string | number)[]
export type Tree = Record<string, unknown>

export function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export class ConfigSource {
  /** The values as the file has them. */
  readonly raw: Tree
  /** The values with the environment filled in. */
  readonly tree: Tree
  readonly problems: ConfigProblem[] = []
  readonly #document: Document
  readonly #lines = new LineCounter()
  /** Place in the tree -> name of the environment variable that gave its whole value. */
  readonly #overridden = new Map<string, string>()

  /** @param overrides place in the tree -> name of the environment variable that wins there */
  constructor(
    text: string,
    env: Readonly<Record<string, string | undefined>>,
    overrides: readonly [Path, string][],
  ) {
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false })
    // Only the first error: after it the parser is out of step, and reports errors that are none.
    const [error] = this.#document.errors
    if (error) {
      const { line } = this.#lines.linePos(error.pos[0])
      this.problems.push({ path: '', line, message: `not YAML: ${error.message}` })
    }
    const content: unknown = this.problems.length > 0 ? {} : withoutNull(this.#toPlain(), [])
    if (content !== undefined && !isTree(content)) {
      this.problems.push({ path: '', line: 1, message: `found ${show(content)}, expected a map of settings` })
    }
    this.raw = isTree(content) ? content : {}
    for (const [path, variable] of overrides) {
      const value = env[variable]
      if (value !== undefined && value !== '') this.#override(path, variable, value)
    }
    this.tree = this.#interpolate(this.raw, [], env) as Tree
  }

  report(path: Path, message: string): void {
    const variable = this.#overridden.get(path.join('\0'))
    this.problems.push({
      path: variable ?? pathText(path),
      line: variable ? undefined : this.#lineOf(path),
      message,
    })
  }

  /** @returns the file's text there, without secrets */
  found(path: Path): string {
    let value: unknown = this.raw
    for (const part of path) value = isTree(value) || Array.isArray(value) ? (value as Tree)[part] : undefined
    const [last, before] = [path.at(-1), path.at(-2)]
    // An account that was written as a text contains its password.
    const account = last === 'credentials' || before === 'credentials'
    const secret = account || path.includes('headers') || /password|secret|token/i.test(String(last))
    if (secret && typeof value !== 'object') return 'a value not shown here'
    // The query of a URL may hold a receiver's token.
    return show(path.at(-1) === 'url' && typeof value === 'string' ? value.replace(/\?.*/s, '?…') : value)
  }

  #toPlain(): unknown {
    try {
      return this.#document.toJS({ maxAliasCount: 100 })
    } catch (error) {
      this.problems.push({ path: '', line: undefined, message: `not YAML: ${(error as Error).message}` })
      return {}
    }
  }

  #override(path: Path, variable: string, value: string): void {
    let map = this.raw
    for (const part of path.slice(0, -1)) {
      const next = (map[part] ??= {})
      // The schema reports a section that is not a map; the value has no place there.
      if (!isTree(next)) return
      map = next
    }
    map[String(path.at(-1))] = value.replaceAll('${', () => '$${')
    this.#overridden.set(path.join('\0'), variable)
  }

  #interpolate(value: unknown, path: Path, env: Readonly<Record<string, string | undefined>>): unknown {
    if (typeof value === 'string') {
      return value.replaceAll(
        /(\$?)\$\{([^}]*)(\}?)/g,
        (whole: string, escape: string, name: string, end: string) => {
          if (escape !== '') return whole.slice(1)
          if (end === '' || !/^[A-Za-z_]\w*$/.test(name)) {
            this.report(path, `found ${this.found(path)}, expected \${NAME}, or $\${ for a plain \${`)
            return ''
          }
          const text = env[name]
          if (text === undefined) this.report(path, `the environment variable ${name} is not set`)
          return text ?? ''
        },
      )
    }
    if (Array.isArray(value))
      return value.map((item, index) => this.#interpolate(item, [...path, index], env))
    if (!isTree(value)) return value
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, this.#interpolate(item, [...path, key], env)]),
    )
  }

  #lineOf(path: Path): number | undefined {
    let node: unknown = this.#document.contents
    let offset: number | undefined
    for (const part of path) {
      if (isMap(node)) {
        const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(part))
        if (pair === undefined) break
        if (isScalar(pair.key)) offset = pair.key.range?.[0]
        node = pair.value
      } else if (isSeq(node)) {
        node = node.items[Number(part)]
        if (isScalar(node) || isMap(node)) offset = node.range?.[0]
      } else break
    }
    return offset === undefined ? undefined : this.#lines.linePos(offset).line
  }
}

export function pathText(path: Path): string {
  let text = ''
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`
    else
      text += (text === '' ? '' : '.') + (/^[\w.:/-]+$/.test(part) ? part : JSON.stringify(part.slice(0, 80)))
  }
  return text
}

function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object' && value !== null) return 'a map'
  if (typeof value !== 'string')
    return typeof value === 'number' || typeof value === 'boolean' || value === null
      ? String(value)
      : typeof value
  const text = value.replaceAll(/\/\/[^/@\s]*@/g, '//…@')
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text)
}

/** `quay.io:` with nothing after it names an upstream with all its defaults, and does not remove it. */
function withoutNull(value: unknown, path: Path): unknown {
  if (value === null) return path.length === 2 && path[0] === 'upstreams' ? {} : undefined
  // An empty entry of a list is a mistake, an empty key of an entry is not.
  if (Array.isArray(value))
    return value.map((item: unknown, at) => (item === null ? null : withoutNull(item, [...path, String(at)])))
  if (!isTree(value)) return value
  const entries = Object.entries(value).map(
    ([key, item]) => [key, withoutNull(item, [...path, key])] as const,
  )
  return Object.fromEntries(entries.filter(([, item]) => item !== undefined))
}
