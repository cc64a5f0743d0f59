/**
 * Control characters, which a terminal or an editor acts upon instead of showing them: texts of clients and upstreams
 * must not reach a person with any of them. JSON escapes those of C0 anyway.
 */

/** C1 controls, the marks that turn the direction of a text, and the separators that end a line. */
const UNSEEN = /[\u0080-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g
/** A whole escape of JSON: the second half of `\\` begins no other. */
const JSON_ESCAPE = /\\(?:u[0-9a-fA-F]{4}|.)/g
/** Escapes of control characters other than tabs and ends of lines. */
const CONTROL_ESCAPE = /^\\(?:u00[01]|[bfr])/

/** `\u009b`: also what it is in JSON. */
function escapeOf(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}

/** The same JSON without a control character in it. */
export function shownJson(line: string): string {
  // Nearly all lines are ASCII: that is found out in a tenth of the time.
  return Buffer.byteLength(line) === line.length ? line : line.replaceAll(UNSEEN, escapeOf)
}

/** JSON whose texts will be shown without their escapes: a control character becomes the text of its escape. */
export function plainJson(line: string): string {
  return line
    .replaceAll(JSON_ESCAPE, (it) => (CONTROL_ESCAPE.test(it) ? `\\${it}` : it))
    .replaceAll(UNSEEN, (it) => `\\${escapeOf(it)}`)
    .replaceAll('\u007f', '\\\\u007f')
}

/** Text for a terminal; tabs and ends of lines stay. */
export function plainText(text: string): string {
  // eslint-disable-next-line no-control-regex -- they are what is looked for
  return text.replaceAll(/[\x00-\x08\x0b-\x1f\x7f]/g, escapeOf).replaceAll(UNSEEN, escapeOf)
}

/** Text for one line of a terminal. */
export function plainLine(text: string): string {
  return plainText(text).replaceAll(/[\t\n]/g, escapeOf)
}
