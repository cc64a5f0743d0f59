/**
 * JSON from strangers.
 *
 * Nothing of the standard's parser is left out but depth: it reads millions of brackets in half a second and
 * 200 MB.
 */

export type JsonObject = Record<string, unknown>

/** Deeper than any manifest. */
const MAX_NESTING = 100

export class JsonError extends Error {
  override readonly name = 'JsonError'
}

/** @throws JsonError when it is no JSON, no object, or nested too deeply */
export function parseJsonObject(bytes: Uint8Array): JsonObject {
  if (isDeep(bytes)) throw new JsonError('nested too deeply')
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

/** Brackets in strings do not count. */
function isDeep(bytes: Uint8Array): boolean {
  let depth = 0
  let quoted = false
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at]
    if (quoted) {
      if (byte === 0x5c) at += 1
      else if (byte === 0x22) quoted = false
    } else if (byte === 0x22) quoted = true
    else if (byte === 0x7b || byte === 0x5b) {
      depth += 1
      if (depth > MAX_NESTING) return true
    } else if (byte === 0x7d || byte === 0x5d) depth -= 1
  }
  return false
}
