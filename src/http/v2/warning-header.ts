/**
 * Value of a `Warning` header, in the one form that registry clients display.
 *
 * Spec: distribution-spec § Warnings; RFC 9111 § 5.5.
 */

/** The specification limits the whole header to 4096 bytes. */
const MAX_LENGTH = 1024

export function warningHeader(text: string): string {
  const quotable = text
    .slice(0, MAX_LENGTH)
    .replace(/[^\x20-\x7e]/g, ' ')
    .replace(/["\\]/g, "'")
  return `299 - "${quotable}"`
}
