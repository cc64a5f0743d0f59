/**
 * Escapes control characters, which a terminal or an editor obeys instead of showing them: texts of clients and
 * upstreams must reach no operator with any of them. JSON itself escapes only those of C0.
 */

/** C1 controls, the marks that turn the direction of a text, and the separators that end a line. */
const UNSEEN = /[\u0080-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g
/** A whole escape of JSON: the second half of `\\` begins no other. */
const JSON_ESCAPE = /\\(?:u[0-9a-fA-F]{4}|.)/g
/** Escapes of control characters other than tabs and ends of lines. */
const CONTROL_ESCAPE = /^\\(?:u00[01]|[bfr])/

/** @returns such as `\u009b`, which is an escape in JSON as well */
function escapeOf(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}

/** The same JSON with all control characters escaped. */
export function shownJson(line: string): string {
  // Nearly all lines are ASCII, and this check takes a tenth of the time.
  return Buffer.byteLength(line) === line.length ? line : line.replaceAll(UNSEEN, escapeOf)
}

/** JSON whose texts will be shown unescaped: a control character becomes the text of its escape. */
export function plainJson(line: string): string {
  return line
    .replaceAll(JSON_ESCAPE, (it) => (CONTROL_ESCAPE.test(it) ? `\\${it}` : it))
    .replaceAll(UNSEEN, (it) => `\\${escapeOf(it)}`)
    .replaceAll('\u007f', '\\\\u007f')
}

/** Text for a terminal; tabs and ends of lines stay. */
export function plainText(text: string): string {
  // eslint-disable-next-line no-control-regex -- it looks for them
  return text.replaceAll(/[\x00-\x08\x0b-\x1f\x7f]/g, escapeOf).replaceAll(UNSEEN, escapeOf)
}

/** Text for one line of a terminal. */
export function plainLine(text: string): string {
  return plainText(text).replaceAll(/[\t\n]/g, escapeOf)
}
