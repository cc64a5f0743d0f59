/**
 * The few system calls that move a file into a socket without our touching its bytes, through `node:ffi`.
 *
 * Experimental in Node, so everything here may be missing: {@link openLinuxSyscalls} then says so, and whoever asked
 * copies the bytes. Whatever is handed to the kernel stays referenced by the object: it writes where it was told to,
 * also when the garbage collector has given that memory to somebody else.
 */
import type { Bytes } from '../../base/units.ts'
import { readFile } from 'node:fs/promises'
import type * as Ffi from 'node:ffi'
import { platform, arch } from 'node:process'

type Descriptor = number

export interface LinuxSyscalls {
  /**
   * From the file to the socket, as many as it takes at once.
   *
   * @returns bytes moved; 0: it takes none now, or never will again (an ordinary write tells which)
   */
  sendFile(socket: Descriptor, file: Descriptor, position: Bytes, count: Bytes): Bytes
  /**
   * How far the file is in memory from there, so that sending it does not wait for the disk; in steps of half a MiB
   * where not all of it is.
   */
  cachedUpTo(file: Descriptor, start: Bytes, end: Bytes): Bytes
  /** It takes as much at once as an ordinary process may ask for, if that is more than it comes to by itself. */
  growSendBuffer(socket: Descriptor): void
  /**
   * How often this thread has waited inside the kernel so far, and not only for a processor: it grows when a call had
   * to wait for the disk after all.
   */
  voluntarySwitches(): number
}

const CALLS = {
  sendfile: { return: 'int64', arguments: ['int32', 'int32', 'pointer', 'uint64'] },
  preadv2: { return: 'int64', arguments: ['int32', 'pointer', 'int32', 'int64', 'int32'] },
  getrusage: { return: 'int32', arguments: ['int32', 'pointer'] },
  setsockopt: { return: 'int32', arguments: ['int32', 'int32', 'int32', 'pointer', 'uint32'] },
  getpagesize: { return: 'int32', arguments: [] },
  /** Of `cachestat`, for which there is no function yet. */
  syscall: { return: 'int64', arguments: ['int64', 'int32', 'pointer', 'pointer', 'uint32'] },
} as const

/** Of which it is asked at once whether it is in memory, where pages cannot be counted. */
const PIECE: Bytes = 512 * 1024

/** What an ordinary process may ask for; what a socket comes to by itself is the last of three numbers. */
const MOST_BY_REQUEST = '/proc/sys/net/core/wmem_max'
const MOST_BY_ITSELF = '/proc/sys/net/ipv4/tcp_wmem'

/** Their numbers, the same on all of the architectures below. */
const RWF_NOWAIT = 8
/** Since Linux 6.5. */
const CACHESTAT = 451n
const RUSAGE_THREAD = 1
const SOL_SOCKET = 1
const SO_SNDBUF = 7
/** `struct rusage`, in words: two times, then fourteen numbers. */
const RUSAGE_WORDS = 18
const VOLUNTARY_SWITCHES = 16

/** @returns undefined where it cannot be: another system, a Node without FFI, a libc without these calls */
export async function openLinuxSyscalls(): Promise<LinuxSyscalls | undefined> {
  if (platform !== 'linux' || !['x64', 'arm64'].includes(arch)) return undefined
  try {
    return new LinuxKernel(await import('node:ffi'), await widestBuffer())
  } catch {
    return undefined
  }
}

/** Of a socket, in what it is asked for; undefined where one comes to more by itself, or nobody knows. */
async function widestBuffer(): Promise<Bytes | undefined> {
  try {
    const [request, itself] = await Promise.all(
      [MOST_BY_REQUEST, MOST_BY_ITSELF].map((file) => readFile(file, 'utf8')),
    )
    const most = Number(request)
    // It is given twice what it asks for. A size of its own ends its growing: too small a one would be for ever.
    return most * 2 > Number(itself?.trim().split(/\s+/).at(-1)) ? most : undefined
  } catch {
    return undefined
  }
}

function load({ dlopen }: typeof Ffi) {
  return dlopen(null, CALLS)
}

/** What a call is given in memory: numbers of 64 bits, which stay where they are. */
class Words {
  readonly words: BigUint64Array<ArrayBuffer>
  readonly pointer: bigint

  constructor({ getRawPointer }: typeof Ffi, count: number) {
    // A small typed array of its own would lie in the heap, and be moved.
    const memory = new ArrayBuffer(count * 8)
    this.words = new BigUint64Array(memory)
    this.pointer = getRawPointer(memory)
  }
}

class LinuxKernel implements LinuxSyscalls {
  /** The functions go with it. */
  readonly #library: ReturnType<typeof load>
  readonly #pageSize: Bytes
  readonly #widest: Bytes | undefined
  readonly #offset: Words
  /** `int` */
  readonly #size: Words
  readonly #usage: Words
  /** What is read to see whether it can be: one byte. */
  readonly #probe: Words
  /** `struct iovec` of the probe. */
  readonly #vector: Words
  /** `struct cachestat_range`: offset, length. */
  readonly #range: Words
  /** `struct cachestat`, which begins with the number of pages in memory. */
  readonly #counted: Words
  /** Whether it counts pages: neither an older system nor every container does. */
  #counts = true

  constructor(ffi: typeof Ffi, widest: Bytes | undefined) {
    this.#library = load(ffi)
    this.#widest = widest
    this.#pageSize = this.#library.functions.getpagesize()
    this.#offset = new Words(ffi, 1)
    this.#size = new Words(ffi, 1)
    this.#usage = new Words(ffi, RUSAGE_WORDS)
    this.#probe = new Words(ffi, 1)
    this.#vector = new Words(ffi, 2)
    this.#vector.words.set([this.#probe.pointer, 1n])
    this.#range = new Words(ffi, 2)
    this.#counted = new Words(ffi, 5)
  }

  sendFile(socket: Descriptor, file: Descriptor, position: Bytes, count: Bytes): Bytes {
    this.#offset.words[0] = BigInt(position)
    const { sendfile } = this.#library.functions
    return Math.max(Number(sendfile(socket, file, this.#offset.pointer, BigInt(count))), 0)
  }

  cachedUpTo(file: Descriptor, start: Bytes, end: Bytes): Bytes {
    // A page that is just being read counts as well, but cannot be read from yet.
    if (this.#holdsPages(file, start, end)) return this.#canRead(file, start, end) ? end : start
    let position = start
    while (position < end) {
      const next = Math.min(position + PIECE, end)
      if (!this.#mayHold(file, position, next) || !this.#canRead(file, position, next)) break
      position = next
    }
    return position
  }

  /** All of them. */
  #holdsPages(file: Descriptor, start: Bytes, end: Bytes): boolean {
    if (!this.#counts) return false
    const first = Math.floor(start / this.#pageSize)
    const pages = Math.ceil(end / this.#pageSize) - first
    this.#range.words[0] = BigInt(start)
    this.#range.words[1] = BigInt(end - start)
    const { syscall } = this.#library.functions
    this.#counts = syscall(CACHESTAT, file, this.#range.pointer, this.#counted.pointer, 0) === 0n
    return this.#counts && this.#counted.words[0] === BigInt(pages)
  }

  /** Nobody can say where pages cannot be counted. */
  #mayHold(file: Descriptor, start: Bytes, end: Bytes): boolean {
    return !this.#counts || this.#holdsPages(file, start, end)
  }

  /** At both ends and in the middle. */
  #canRead(file: Descriptor, start: Bytes, end: Bytes): boolean {
    return (
      this.#canReadAt(file, start) &&
      this.#canReadAt(file, start + ((end - start) >> 1)) &&
      this.#canReadAt(file, end - 1)
    )
  }

  #canReadAt(file: Descriptor, at: Bytes): boolean {
    const { preadv2 } = this.#library.functions
    return preadv2(file, this.#vector.pointer, 1, BigInt(at), RWF_NOWAIT) === 1n
  }

  growSendBuffer(socket: Descriptor): void {
    if (this.#widest === undefined) return
    this.#size.words[0] = BigInt(this.#widest)
    const { setsockopt } = this.#library.functions
    setsockopt(socket, SOL_SOCKET, SO_SNDBUF, this.#size.pointer, 4)
  }

  voluntarySwitches(): number {
    this.#library.functions.getrusage(RUSAGE_THREAD, this.#usage.pointer)
    return Number(this.#usage.words[VOLUNTARY_SWITCHES])
  }
}
