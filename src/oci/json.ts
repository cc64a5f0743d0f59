/**
 * Single-pass JSON parser for untrusted documents: validates every byte, and builds only the selected values.
 *
 * `JSON.parse` takes half a second and 200 MB for millions of brackets, a second for half a million members, and its
 * result weighs several times as much as the document. This parser allocates nothing for what is not selected.
 */
import { isUtf8 } from 'node:buffer'

export type JsonObject = Record<string, unknown>

/**
 * The part of a value that the parser builds.
 *
 * - `scalar`: a string (undefined above 2 KiB), number, boolean or null; a list or an object comes out empty
 * - `text`: the same, with strings of up to 64 KiB
 * - `members`: the named members of an object
 * - `any`: the first `most` members of an object, whatever their names
 * - `each`: the first `most` elements of a list (default: all); with `take` every element goes to that callback as it
 *   is parsed, and the list itself stays empty
 *
 * A value of another kind than its selection is read as `scalar`.
 */
export type Selection =
  | 'scalar'
  | 'text'
  | { readonly members: Readonly<Record<string, Selection>> }
  | { readonly any: Selection; readonly most: number }
  | { readonly each: Selection; readonly most?: number }
  | { readonly each: Selection; readonly take: (element: unknown) => void }

/** No manifest nests so deeply. */
const MAX_NESTING = 100
/** Bytes; no manifest needs more. A member with a longer name is dropped, a longer string is read as undefined. */
const MAX_NAME = 1024
const MAX_SCALAR = 2048
const MAX_TEXT = 64 * 1024

export class JsonError extends Error {
  override readonly name = 'JsonError'
}

/**
 * @param maxItems limit of members and elements in total, roughly
 * @throws JsonError when the bytes are no JSON, no object, nested too deeply, or have more items
 */
export function parseJsonObject(bytes: Uint8Array, maxItems: number, selection: Selection): JsonObject {
  if (!isUtf8(bytes)) throw new JsonError('not JSON')
  const value = new Reader(bytes, maxItems).document(selection)
  if (!isObject(value)) throw new JsonError('not a JSON object')
  return value
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Parses a short text; undefined where it is no JSON object. */
export function jsonObjectIn(text: string): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

class Reader {
  readonly #bytes: Buffer
  readonly #maxItems: number
  #at = 0
  #depth = 0
  #items = 0

  constructor(bytes: Uint8Array, maxItems: number) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#maxItems = maxItems
  }

  document(selection: Selection): unknown {
    const bytes = this.#bytes
    // JSON forbids a byte order mark, yet editors write one.
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) this.#at = 3
    const value = this.#value(selection)
    this.#space()
    if (this.#at < bytes.length) throw new JsonError('not JSON')
    return value
  }

  #value(selection: Selection | undefined): unknown {
    this.#space()
    switch (this.#bytes[this.#at]) {
      case OPEN_BRACE:
        return this.#object(selection)
      case OPEN_BRACKET:
        return this.#list(selection)
      case QUOTE:
        return this.#text(selection !== undefined, selection === 'text' ? MAX_TEXT : MAX_SCALAR)
      case 0x74:
        return this.#word('true', true)
      case 0x66:
        return this.#word('false', false)
      case 0x6e:
        return this.#word('null', null)
      default:
        return this.#number(selection !== undefined)
    }
  }

  #object(selection: Selection | undefined): JsonObject | undefined {
    const wanted = selectionOfMembers(selection)
    // Entries, not assignments: a member may be called `__proto__`, and of duplicate names the last one wins.
    const entries: [string, unknown][] = []
    this.#open()
    if (this.#next() !== CLOSE_BRACE) {
      for (;;) {
        if (this.#next() !== QUOTE) throw new JsonError('not JSON')
        const name = this.#text(wanted !== undefined, MAX_NAME)
        if (this.#next() !== COLON) throw new JsonError('not JSON')
        this.#at += 1
        const inner = name === undefined ? undefined : wanted?.(name, entries.length)
        const value = this.#value(inner)
        if (inner !== undefined && name !== undefined) entries.push([name, value])
        if (!this.#more(CLOSE_BRACE)) break
      }
    }
    this.#close()
    return selection === undefined ? undefined : Object.fromEntries(entries)
  }

  #list(selection: Selection | undefined): unknown[] | undefined {
    const listed = typeof selection === 'object' && 'each' in selection ? selection : undefined
    const each = listed?.each
    const take = listed !== undefined && 'take' in listed ? listed.take : undefined
    const most = listed !== undefined && 'most' in listed ? (listed.most ?? Infinity) : Infinity
    const elements: unknown[] = []
    this.#open()
    if (this.#next() !== CLOSE_BRACKET) {
      for (;;) {
        const kept = each !== undefined && elements.length < most
        const value = this.#value(kept ? each : undefined)
        if (kept && take !== undefined) take(value)
        else if (kept) elements.push(value)
        if (!this.#more(CLOSE_BRACKET)) break
      }
    }
    this.#close()
    return selection === undefined ? undefined : elements
  }

  /** @returns undefined where it is not selected, or longer than `most` bytes */
  #text(wanted: boolean, most: number): string | undefined {
    const bytes = this.#bytes
    const start = this.#at
    let escaped = false
    let at = start + 1
    for (; ; at += 1) {
      const byte = bytes[at]
      if (byte === QUOTE) break
      if (byte === undefined || byte < 0x20) throw new JsonError('not JSON')
      if (byte !== BACKSLASH) continue
      escaped = true
      at += 1
      const escape = bytes[at]
      if (escape === LOWER_U) {
        for (const end = at + 4; at < end;) if (!isHex(bytes[++at])) throw new JsonError('not JSON')
      } else if (escape === undefined || !ESCAPES.has(escape)) throw new JsonError('not JSON')
    }
    this.#at = at + 1
    if (!wanted || at - start > most) return undefined
    if (escaped) return JSON.parse(bytes.toString('utf8', start, at + 1)) as string
    return bytes.toString('utf8', start + 1, at)
  }

  #word<T>(word: string, value: T): T {
    const { length } = word
    if (this.#bytes.toString('latin1', this.#at, this.#at + length) !== word) throw new JsonError('not JSON')
    this.#at += length
    return value
  }

  #number(wanted: boolean): number | undefined {
    const bytes = this.#bytes
    const start = this.#at
    let at = start
    const digits = (): void => {
      const first = at
      while (isDigit(bytes[at])) at += 1
      if (at === first) throw new JsonError('not JSON')
    }
    if (bytes[at] === MINUS) at += 1
    if (bytes[at] === ZERO) at += 1
    else digits()
    if (bytes[at] === DOT) {
      at += 1
      digits()
    }
    if (bytes[at] === LOWER_E || bytes[at] === UPPER_E) {
      at += 1
      if (bytes[at] === PLUS || bytes[at] === MINUS) at += 1
      digits()
    }
    this.#at = at
    return wanted ? Number(bytes.toString('latin1', start, at)) : undefined
  }

  #open(): void {
    this.#at += 1
    this.#depth += 1
    if (this.#depth > MAX_NESTING) throw new JsonError('nested too deeply')
  }

  #close(): void {
    this.#at += 1
    this.#depth -= 1
  }

  /** Consumes the comma behind a member or an element; false at `close`. */
  #more(close: number): boolean {
    const byte = this.#next()
    if (byte === close) return false
    if (byte !== COMMA) throw new JsonError('not JSON')
    this.#at += 1
    this.#items += 1
    if (this.#items > this.#maxItems) throw new JsonError('too many members')
    return true
  }

  /** Skips white space and peeks at the next byte. */
  #next(): number | undefined {
    this.#space()
    return this.#bytes[this.#at]
  }

  #space(): void {
    const bytes = this.#bytes
    let at = this.#at
    for (; ; at += 1) {
      const byte = bytes[at]
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) break
    }
    this.#at = at
  }
}

type MemberSelection = (name: string, before: number) => Selection | undefined

function selectionOfMembers(selection: Selection | undefined): MemberSelection | undefined {
  if (typeof selection !== 'object') return undefined
  if ('members' in selection) {
    const { members } = selection
    return (name) => (Object.hasOwn(members, name) ? members[name] : undefined)
  }
  if (!('any' in selection)) return undefined
  const { any, most } = selection
  return (_name, before) => (before < most ? any : undefined)
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39
}

function isHex(byte: number | undefined): boolean {
  if (byte === undefined) return false
  const lower = byte | 0x20
  return isDigit(byte) || (lower >= 0x61 && lower <= 0x66)
}

const [QUOTE, COMMA, BACKSLASH, COLON] = [0x22, 0x2c, 0x5c, 0x3a]
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d]
const [ZERO, DOT, MINUS, PLUS, LOWER_E, UPPER_E, LOWER_U] = [0x30, 0x2e, 0x2d, 0x2b, 0x65, 0x45, 0x75]
/** Escapes other than `\u`. */
const ESCAPES: ReadonlySet<number> = new Set(Buffer.from('"\\/bfnrt'))
