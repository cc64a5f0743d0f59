/**
 * Streaming tar reader: what GNU, BSD and Go write, as far as it is folders and plain files.
 *
 * The author of the archive may be an attacker. Links, devices, holes, names that lead out of the folder, and headers
 * that contradict themselves end the reading, and a truncated archive is told from a complete one. tar-stream 3 is
 * unfit for that: it accepts pax records without a length or an end, global ones, an archive without its end and a
 * second one behind it; and it cannot seek past a body, so that listing an archive would read all of its holes.
 * Spec: POSIX.1-2017, pax § ustar Interchange Format and § pax Interchange Format; GNU tar, § Basic Tar Format.
 */
import type { Bytes } from '../../base/units.ts'
import { BLOCK, checksum } from './write-tar.ts'

const MOST_NAME = 100

/** An extended header or a long name takes a few hundred bytes, file system attributes some more. */
const MOST_META: Bytes = 64 * 1024

/** Behind the end there are only the zeros of the last record; not even a tape has longer records. */
const MOST_BEHIND: Bytes = 1024 * 1024

export class TarError extends Error {
  override readonly name = 'TarError'
}

export interface TarSource extends AsyncIterable<Buffer> {
  /** Seeks past the next so many bytes; without it the reader reads and drops them. */
  skip?(count: Bytes): void
}

export interface TarEntry {
  /** Without a leading `./`. */
  readonly name: string
  readonly size: Bytes
  /** The archive's byte at which the body begins. */
  readonly position: Bytes
  /** Must be read before the next entry is asked for, which skips the rest of it. */
  readonly body: AsyncIterable<Buffer>
}

/** What an extended header says about the next file. */
interface Extended {
  readonly path?: string
  readonly size?: Bytes
}

/**
 * The plain files of an archive, in its order.
 *
 * @throws TarError for what is no archive, ends before its end, or holds anything but folders and plain files
 */
export async function* readTar(chunks: TarSource): AsyncGenerator<TarEntry, void, undefined> {
  const source = new ByteReader(chunks)
  let next: Extended = {}
  for (;;) {
    const block = await source.exactly(BLOCK)
    // One block of zeros is enough: some writers leave the second out.
    if (block.every((byte) => byte === 0)) {
      await assertNothingFollows(source)
      return
    }
    const header = parseHeader(block, source.position === BLOCK)
    if ('xgLK'.includes(header.type)) {
      const text = await metaOf(source, header.size)
      if (header.type === 'x') next = { ...next, ...parsePax(text) }
      if (header.type === 'L') next = { ...next, path: textOf(text) }
      // Other programs would apply a global header to every file, and this reader would not.
      if (header.type === 'g' && Object.keys(parsePax(text)).length > 0) throw new TarError(CONFUSED)
      continue
    }
    const name = (next.path ?? header.name).replace(/^(?:\.\/+)+/, '')
    const size = next.size ?? header.size
    next = {}
    assertHarmless(name, header.type, size)
    if (header.type === FOLDER) continue
    const position = source.position
    yield { name, size, position, body: source.until(position + size) }
    await source.skip(position + size - source.position)
    await source.skip((BLOCK - (size % BLOCK)) % BLOCK)
  }
}

const FILE = '0'
const FOLDER = '5'

const CONFUSED = 'an extended header makes no sense'

const KINDS: Readonly<Record<string, string>> = {
  1: 'a hard link',
  2: 'a symbolic link',
  3: 'a device',
  4: 'a device',
  6: 'a pipe',
  S: 'a file with holes',
}

/** @throws TarError for an entry that no backup has */
function assertHarmless(name: string, type: string, size: Bytes): void {
  if (type !== FILE && type !== FOLDER) {
    throw new TarError(
      `${shown(name)} in it is ${KINDS[type] ?? `of a kind that no backup has (${shown(type)})`}`,
    )
  }
  if (name.startsWith('/') || name.split('/').includes('..') || name.includes('\0')) {
    throw new TarError(`the name ${shown(name)} in it leads elsewhere`)
  }
  if (type === FOLDER && size > 0) throw new TarError(`the folder ${shown(name)} in it has bytes`)
}

/** A name from an archive, safe to print on a terminal. */
function shown(name: string): string {
  return `"${name.slice(0, 160).replace(/[^\x20-\x7e]/g, '?')}"`
}

/** If two archives were concatenated, the operator would not notice that the second was not read. */
async function assertNothingFollows(source: ByteReader): Promise<void> {
  for (let rest = MOST_BEHIND; ;) {
    const part = await source.upTo(Math.max(1, rest))
    if (part === undefined) return
    rest -= part.length
    if (rest < 0 || part.some((byte) => byte !== 0)) throw new TarError('it goes on behind its end')
  }
}

async function metaOf(source: ByteReader, size: Bytes): Promise<Buffer> {
  if (size > MOST_META) throw new TarError('an extended header is too long')
  return (await source.exactly(Math.ceil(size / BLOCK) * BLOCK)).subarray(0, size)
}

/** Magic numbers of compressed files. */
const PACKED: readonly (readonly [string, string])[] = [
  ['\x1f\x8b', 'gzip'],
  ['\x28\xb5\x2f\xfd', 'zstd'],
  ['\xfd7zXZ\0', 'xz'],
  ['BZh', 'bzip2'],
]

function parseHeader(block: Buffer, isFirst: boolean): { name: string; size: Bytes; type: string } {
  if (readOctal(block.subarray(148, 156)) !== checksum(block)) {
    const start = block.toString('latin1', 0, 8)
    const packed = isFirst ? PACKED.find(([magic]) => start.startsWith(magic)) : undefined
    if (packed !== undefined)
      throw new TarError(`it is compressed (${packed[1]}), and has to be unpacked first`)
    throw new TarError('this is no tar archive, or a damaged one')
  }
  const ours = block.toString('ascii', 257, 262) === 'ustar'
  // GNU's own format has other fields in place of the prefix.
  const prefix = ours && block[262] === 0 ? textOf(block.subarray(345, 500)) : ''
  const name = textOf(block.subarray(0, MOST_NAME))
  const type = String.fromCharCode(block[156] ?? 0)
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    size: parseSize(block.subarray(124, 136)),
    type: type === '\0' || type === '7' ? FILE : type,
  }
}

/** The field holds octal digits or, where GNU's did not fit, big-endian bytes behind a set first bit. */
function parseSize(field: Buffer): Bytes {
  const first = field[0] ?? 0
  const value =
    first < 0x80 ? readOctal(field) : field.subarray(1).reduce((sum, byte) => sum * 256 + byte, first & 0x7f)
  return sensible(value)
}

/** @returns NaN for what is no octal number; 0 for an empty field */
function readOctal(field: Buffer): number {
  const [, digits] = /^ *([0-7]*)(?:[\0 ]|$)/.exec(field.toString('latin1')) ?? []
  return digits === undefined ? NaN : parseInt(digits || '0', 8)
}

function sensible(size: Bytes): Bytes {
  // The sum of size and padding must stay a safe integer.
  if (!Number.isSafeInteger(size + BLOCK) || size < 0) throw new TarError('a size in it makes no sense')
  return size
}

function parsePax(records: Buffer): Extended {
  const found: { path?: string; size?: Bytes } = {}
  for (let at = 0; at < records.length;) {
    const blank = records.subarray(at, at + 8).indexOf(0x20)
    const digits = records.toString('latin1', at, at + Math.max(0, blank))
    const end = at + (/^[1-9]\d*$/.test(digits) ? Number(digits) : NaN)
    // A length that is no number fails this check as well.
    if (!(end > at + blank + 1 && end <= records.length) || records[end - 1] !== 0x0a)
      throw new TarError(CONFUSED)
    const record = records.toString('utf8', at + blank + 1, end - 1)
    const equals = record.indexOf('=')
    if (equals < 1) throw new TarError(CONFUSED)
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)]
    if (key.startsWith('GNU.sparse.')) throw new TarError('a file in it has holes')
    if (key === 'path') found.path = value
    if (key === 'size') found.size = sensible(/^\d{1,16}$/.test(value) ? Number(value) : NaN)
    at = end
  }
  return found
}

function textOf(field: Buffer): string {
  const end = field.indexOf(0)
  return field.toString('utf8', 0, end < 0 ? field.length : end)
}

/** Reads a fixed number of bytes, however the source cut them into chunks. */
class ByteReader {
  position: Bytes = 0
  readonly #source: TarSource
  readonly #chunks: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor(source: TarSource) {
    this.#source = source
    this.#chunks = source[Symbol.asyncIterator]()
  }

  /** @returns at least one byte; undefined at the end */
  async upTo(most: Bytes): Promise<Buffer | undefined> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next()
      if (next.done === true) return undefined
      this.#rest = next.value
    }
    const taken = this.#rest.subarray(0, most)
    this.#rest = this.#rest.subarray(taken.length)
    this.position += taken.length
    return taken
  }

  async some(most: Bytes): Promise<Buffer> {
    const part = await this.upTo(most)
    if (part === undefined) throw new TarError('it ends in the middle')
    return part
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
    const source = this.#source
    let rest = count
    while (rest > 0 && (source.skip === undefined || this.#rest.length > 0))
      rest -= (await this.some(rest)).length
    if (rest === 0) return
    // If the archive ends before that, reading the next header fails.
    source.skip?.(rest)
    this.position += rest
  }

  async *until(end: Bytes): AsyncGenerator<Buffer, void, undefined> {
    while (this.position < end) yield await this.some(end - this.position)
  }
}
