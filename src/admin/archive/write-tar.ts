/**
 * Tar writer: POSIX ustar headers, each after a pax header if a sha512 name or a size of 8 GiB does not fit into it.
 *
 * No library: it would bring streams and emitters around 512 bytes of text per file.
 * Spec: POSIX.1-2017, pax § ustar Interchange Format and § pax Interchange Format.
 */
import type { Bytes } from '../../base/units.ts'

export const BLOCK = 512
const MOST_NAME = 100
const MOST_SIZE: Bytes = 0o77777777777

/** Two blocks of zeros; readers take an archive without them for a truncated one. */
export const END_OF_ARCHIVE = Buffer.alloc(2 * BLOCK)

export function tarHeader(name: string, size: Bytes, modifiedAt: Date): Buffer {
  const fits = Buffer.byteLength(name) <= MOST_NAME && size <= MOST_SIZE
  const plain = ustar(
    fits ? name : name.slice(0, MOST_NAME),
    fits ? size : Math.min(size, MOST_SIZE),
    modifiedAt,
    '0',
  )
  if (fits) return plain
  const records = Buffer.from(paxRecord('path', name) + paxRecord('size', String(size)))
  const header = ustar('PaxHeader', records.length, modifiedAt, 'x')
  return Buffer.concat([header, records, tarPadding(records.length), plain])
}

/** The bytes between a file and the next header. */
export function tarPadding(size: Bytes): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK)
}

function ustar(name: string, size: Bytes, modifiedAt: Date, type: string): Buffer {
  const block = Buffer.alloc(BLOCK)
  const octal = (value: number, at: number, length: number): void => {
    block.write(value.toString(8).padStart(length - 1, '0'), at, length - 1, 'ascii')
  }
  block.write(name, 0, MOST_NAME, 'utf8')
  octal(0o644, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(size, 124, 12)
  octal(Math.floor(modifiedAt.getTime() / 1000), 136, 12)
  block.write(type, 156, 1, 'ascii')
  block.write('ustar\x0000', 257, 8, 'ascii')
  octal(checksum(block), 148, 7)
  block[155] = 0x20
  return block
}

/** The sum of the header's bytes, with blanks in place of the checksum field. */
export function checksum(block: Buffer): number {
  let sum = 8 * 0x20
  for (let at = 0; at < BLOCK; at++) if (at < 148 || at >= 156) sum += block[at] ?? 0
  return sum
}

/** `LENGTH KEY=VALUE\n`, where the length counts itself. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`
  let length = Buffer.byteLength(rest)
  while (Buffer.byteLength(String(length)) + Buffer.byteLength(rest) !== length) {
    length = Buffer.byteLength(String(length)) + Buffer.byteLength(rest)
  }
  return `${length}${rest}`
}
