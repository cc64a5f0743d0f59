/**
 * JSON from strangers.
 *
 * The parser of the platform takes half a second and 200 MB for millions of brackets, and a second for half a
 * million members: what no registry means is refused before it gets to see it.
 */

export type JsonObject = Record<string, unknown>

/** Deeper than any manifest. */
const MAX_NESTING = 100

export class JsonError extends Error {
  override readonly name = 'JsonError'
}

/**
 * @param maxItems how many members and elements it may have in all, about
 * @throws JsonError when it is no JSON, no object, nested too deeply, or has more than that
 */
export function parseJsonObject(bytes: Uint8Array, maxItems: number): JsonObject {
  checkShape(bytes, maxItems)
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new JsonError('not JSON', { cause })
  }
  if (!isObject(value)) throw new JsonError('not a JSON object')
  return value
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Looks at the bytes alone; what is in strings does not count. */
function checkShape(bytes: Uint8Array, maxItems: number): void {
  let depth = 0
  let items = 0
  let quoted = false
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at]
    if (quoted) {
      if (byte === BACKSLASH) at += 1
      else if (byte === QUOTE) quoted = false
    } else if (byte === QUOTE) quoted = true
    else if (byte === COMMA) {
      items += 1
      if (items > maxItems) throw new JsonError('too many members')
    } else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
      depth += 1
      if (depth > MAX_NESTING) throw new JsonError('nested too deeply')
    } else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) depth -= 1
  }
}

const [QUOTE, COMMA, BACKSLASH] = [0x22, 0x2c, 0x5c]
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d]
