/**
 * Tar archives, as a stream in either direction. Of our own: a library would bring streams and emitters around what
 * is 512 bytes of text per file, and an archive that ends early must be told from one that ends.
 *
 * Written as POSIX pax: ustar headers, and an extended one before whatever does not fit (the name of a sha512 blob,
 * a size of 8 GiB). Read as what GNU, BSD and Go write as well.
 * Spec: POSIX.1-2017, pax § ustar Interchange Format and § pax Interchange Format.
 */
type Bytes = number

const BLOCK = 512
const MOST_NAME = 100
const MOST_SIZE: Bytes = 0o77777777777

/** An extended header or a long name is a few hundred bytes; no memory is given to one of megabytes. */
const MOST_META: Bytes = 1024 * 1024

/** Two blocks of zeros. Without them an archive is cut off. */
export const END_OF_ARCHIVE = Buffer.alloc(2 * BLOCK)

export class TarError extends Error {
  override readonly name = 'TarError'
}

/** What stands before the bytes of a file. */
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

/** What stands after them. */
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

/** With the field of the sum itself taken for blanks. */
function checksum(block: Buffer): number {
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

export interface TarEntry {
  /** Without a leading `./`. */
  readonly name: string
  readonly size: Bytes
  /** Must be read to its end before the next entry; what is left of it is skipped. */
  readonly body: AsyncIterable<Buffer>
}

/**
 * The plain files of an archive, in its order.
 *
 * @throws TarError for what is no archive, or ends before its end
 */
export async function* readTar(chunks: AsyncIterable<Buffer>): AsyncGenerator<TarEntry, void, undefined> {
  const source = new ByteReader(chunks)
  let next: { path?: string; size?: number } = {}
  for (;;) {
    const block = await source.exactly(BLOCK)
    // One is enough: some writers leave the second out.
    if (block.every((byte) => byte === 0)) return
    const header = parseHeader(block)
    const size = next.size ?? header.size
    const padded = size + ((BLOCK - (size % BLOCK)) % BLOCK)
    if ('xgLK'.includes(header.type)) {
      if (size > MOST_META) throw new TarError('an extended header is too long')
      const text = (await source.exactly(padded)).subarray(0, size)
      if (header.type === 'x') next = { ...next, ...parsePax(text) }
      if (header.type === 'L') next = { ...next, path: textOf(text) }
      continue
    }
    const name = (next.path ?? header.name).replace(/^(?:\.\/)+/, '')
    next = {}
    if (header.type !== '0') {
      await source.skip(padded)
      continue
    }
    const end = source.position + size
    yield { name, size, body: source.until(end) }
    await source.skip(end - source.position)
    await source.skip(padded - size)
  }
}

function parseHeader(block: Buffer): { name: string; size: Bytes; type: string } {
  const sum = parseInt(block.toString('ascii', 148, 156), 8)
  if (sum !== checksum(block)) throw new TarError('this is no tar archive, or a damaged one')
  const ours = block.toString('ascii', 257, 262) === 'ustar'
  // GNU's own format has other things there.
  const prefix = ours && block[262] === 0 ? textOf(block.subarray(345, 500)) : ''
  const name = textOf(block.subarray(0, MOST_NAME))
  const type = String.fromCharCode(block[156] ?? 0)
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    size: parseNumber(block.subarray(124, 136)),
    type: type === '\0' || type === '7' ? '0' : type,
  }
}

/** Octal digits, or, by GNU and for what does not fit, big-endian bytes behind a set first bit. */
function parseNumber(field: Buffer): number {
  const first = field[0] ?? 0
  let value: number
  if (first < 0x80) value = parseInt(field.toString('ascii').replace(/[\0 ].*$/s, '') || '0', 8)
  else value = field.subarray(1).reduce((sum, byte) => sum * 256 + byte, first & 0x7f)
  if (!Number.isSafeInteger(value) || value < 0) throw new TarError('a size in it makes no sense')
  return value
}

function parsePax(records: Buffer): { path?: string; size?: number } {
  const found: { path?: string; size?: number } = {}
  for (let at = 0; at < records.length;) {
    const blank = records.indexOf(0x20, at)
    const length = parseInt(records.toString('ascii', at, blank), 10)
    const record = records.toString('utf8', blank + 1, at + length - 1)
    if (blank < 0 || !(length > 0) || at + length > records.length) {
      throw new TarError('an extended header makes no sense')
    }
    const equals = record.indexOf('=')
    const value = record.slice(equals + 1)
    if (record.startsWith('path=')) found.path = value
    if (record.startsWith('size=')) {
      found.size = Number(value)
      if (!Number.isSafeInteger(found.size) || found.size < 0)
        throw new TarError('a size in it makes no sense')
    }
    at += length
  }
  return found
}

function textOf(field: Buffer): string {
  const end = field.indexOf(0)
  return field.toString('utf8', 0, end < 0 ? field.length : end)
}

/** Bytes in order, however they were cut into chunks. */
class ByteReader {
  position: Bytes = 0
  readonly #chunks: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor(chunks: AsyncIterable<Buffer>) {
    this.#chunks = chunks[Symbol.asyncIterator]()
  }

  /** At most that many of them, and at least one. */
  async some(most: Bytes): Promise<Buffer> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next()
      if (next.done === true) throw new TarError('it ends in the middle')
      this.#rest = next.value
    }
    const taken = this.#rest.subarray(0, most)
    this.#rest = this.#rest.subarray(taken.length)
    this.position += taken.length
    return taken
  }

  async exactly(count: Bytes): Promise<Buffer> {
    const parts: Buffer[] = []
    for (let missing = count; missing > 0;) {
      const part = await this.some(missing)
      parts.push(part)
      missing -= part.length
    }
    return Buffer.concat(parts)
  }

  async skip(count: Bytes): Promise<void> {
    for (let rest = count; rest > 0;) rest -= (await this.some(rest)).length
  }

  async *until(end: Bytes): AsyncGenerator<Buffer, void, undefined> {
    while (this.position < end) yield await this.some(end - this.position)
  }
}
