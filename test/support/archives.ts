/**
 * Archives of people who mean harm, made byte by byte.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { CONTENTS_FILE } from '../../src/admin/archive/format.ts'
import { END_OF_ARCHIVE, tarHeader, tarPadding } from '../../src/admin/archive/write-tar.ts'

const AT = new Date(1_700_000_000_000)

/** A header with other bytes in some of its fields, and its sum right again. */
export function header(
  name: string,
  size: number,
  { type = '0', sizeField, badSum = false }: { type?: string; sizeField?: Buffer; badSum?: boolean } = {},
): Buffer {
  const block = tarHeader(name, size, AT).subarray(-512)
  block.write(type, 156, 1, 'latin1')
  if (sizeField !== undefined) sizeField.copy(block, 124)
  block.fill(' ', 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0) + (badSum ? 1 : 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1')
  return block
}

/** A member, its bytes and what fills its last block. */
export function member(name: string, bytes: Uint8Array, type = '0'): Buffer {
  return Buffer.concat([header(name, bytes.length, { type }), bytes, tarPadding(bytes.length)])
}

/** A whole archive of those members and of what `entrepot.json` says. */
export function archiveOf(contents: unknown, ...members: readonly Buffer[]): Buffer {
  const bytes = Buffer.isBuffer(contents) ? contents : Buffer.from(JSON.stringify(contents))
  return Buffer.concat([...members, member(CONTENTS_FILE, bytes), END_OF_ARCHIVE])
}

/** An archive whose first member is a hole of so many bytes, which take none on the disk. */
export function writeWithHole(file: string, name: string, size: number, contents: unknown): void {
  const out = openSync(file, 'w')
  try {
    writeSync(out, tarHeader(name, size, AT), 0, undefined, 0)
    writeSync(out, archiveOf(contents), 0, undefined, 512 + Math.ceil(size / 512) * 512)
  } finally {
    closeSync(out)
  }
}
