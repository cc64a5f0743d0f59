/**
 * System calls that move a file into a socket without copying it through this process: sendfile(2) and what it needs.
 *
 * They go through `node:ffi`, which is experimental: where it is missing {@link openLinuxSyscalls} says so, and the
 * caller copies the bytes. The object keeps a reference to all memory whose address it gives to the kernel, because
 * the kernel would write to that address even after the garbage collector has reused it.
 */
import type { Bytes } from '../../base/units.ts'
import { readFile } from 'node:fs/promises'
import type * as Ffi from 'node:ffi'
import { platform, arch } from 'node:process'

type Descriptor = number

export interface LinuxSyscalls {
  /**
   * Sends as many bytes of the file as the socket takes at once.
   *
   * @returns bytes; 0: the socket is full or broken (an ordinary write tells which)
   */
  sendFile(socket: Descriptor, file: Descriptor, position: Bytes, count: Bytes): Bytes
  /**
   * End of the cached part from `start`: sending it does not wait for the disk. Where not all of it is cached, the
   * answer is exact to half a MiB.
   */
  cachedUpTo(file: Descriptor, start: Bytes, end: Bytes): Bytes
  /** Sets SO_SNDBUF to the system's limit, if that exceeds what TCP autotuning reaches. */
  growSendBuffer(socket: Descriptor): void
  /** Voluntary context switches of this thread so far: the count grows when a call had to wait for the disk. */
  voluntarySwitches(): number
}

const CALLS = {
  sendfile: { return: 'int64', arguments: ['int32', 'int32', 'pointer', 'uint64'] },
  preadv2: { return: 'int64', arguments: ['int32', 'pointer', 'int32', 'int64', 'int32'] },
  getrusage: { return: 'int32', arguments: ['int32', 'pointer'] },
  setsockopt: { return: 'int32', arguments: ['int32', 'int32', 'int32', 'pointer', 'uint32'] },
  getpagesize: { return: 'int32', arguments: [] },
  /** Carries `cachestat`, for which libc has no function yet. */
  syscall: { return: 'int64', arguments: ['int64', 'int32', 'pointer', 'pointer', 'uint32'] },
} as const

/** Step of the probe where the kernel cannot count cached pages. */
const PIECE: Bytes = 512 * 1024

/** Limit of SO_SNDBUF for an unprivileged process, and (the last of three numbers) the limit of TCP autotuning. */
const MOST_BY_REQUEST = '/proc/sys/net/core/wmem_max'
const MOST_BY_ITSELF = '/proc/sys/net/ipv4/tcp_wmem'

/** Constants of the kernel, equal on x64 and arm64. */
const RWF_NOWAIT = 8
/** Since Linux 6.5. */
const CACHESTAT = 451n
const RUSAGE_THREAD = 1
const SOL_SOCKET = 1
const SO_SNDBUF = 7
/** `struct rusage`, in words: two times, then fourteen numbers. */
const RUSAGE_WORDS = 18
const VOLUNTARY_SWITCHES = 16

/** @returns undefined on another system, in a Node without FFI, with a libc without these calls */
export async function openLinuxSyscalls(): Promise<LinuxSyscalls | undefined> {
  if (platform !== 'linux' || !['x64', 'arm64'].includes(arch)) return undefined
  try {
    return new LinuxKernel(await import('node:ffi'), await widestBuffer())
  } catch {
    return undefined
  }
}

/** Value for SO_SNDBUF; undefined where autotuning reaches more, or the limits cannot be read. */
async function widestBuffer(): Promise<Bytes | undefined> {
  try {
    const [request, itself] = await Promise.all(
      [MOST_BY_REQUEST, MOST_BY_ITSELF].map((file) => readFile(file, 'utf8')),
    )
    const most = Number(request)
    // The kernel doubles the value. Setting it ends autotuning, so too small a buffer would stay small for ever.
    return most * 2 > Number(itself?.trim().split(/\s+/).at(-1)) ? most : undefined
  } catch {
    return undefined
  }
}

function load({ dlopen }: typeof Ffi) {
  return dlopen(null, CALLS)
}

/** Memory for the arguments of a call: words of 64 bits at a fixed address. */
class Words {
  readonly words: BigUint64Array<ArrayBuffer>
  readonly pointer: bigint

  constructor({ getRawPointer }: typeof Ffi, count: number) {
    // A small typed array without its own ArrayBuffer lies in the JavaScript heap, where the collector moves it.
    const memory = new ArrayBuffer(count * 8)
    this.words = new BigUint64Array(memory)
    this.pointer = getRawPointer(memory)
  }
}

class LinuxKernel implements LinuxSyscalls {
  /** Keeps the functions alive: they die with the library handle. */
  readonly #library: ReturnType<typeof load>
  readonly #pageSize: Bytes
  readonly #widest: Bytes | undefined
  readonly #offset: Words
  /** `int` */
  readonly #size: Words
  readonly #usage: Words
  /** Target of the probe's read of one byte. */
  readonly #probe: Words
  /** `struct iovec` of the probe. */
  readonly #vector: Words
  /** `struct cachestat_range`: offset, length. */
  readonly #range: Words
  /** `struct cachestat`, which begins with the number of pages in memory. */
  readonly #counted: Words
  /** False once `cachestat` has failed: kernels before 6.5 and some containers lack it. */
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
    // A page that is still being read from the disk is counted, but RWF_NOWAIT does not return it yet.
    if (this.#holdsPages(file, start, end)) return this.#canRead(file, start, end) ? end : start
    let position = start
    while (position < end) {
      const next = Math.min(position + PIECE, end)
      if (!this.#mayHold(file, position, next) || !this.#canRead(file, position, next)) break
      position = next
    }
    return position
  }

  /** Whether all pages are in the page cache; false where they cannot be counted. */
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

  /** True where pages cannot be counted: then only the probe decides. */
  #mayHold(file: Descriptor, start: Bytes, end: Bytes): boolean {
    return !this.#counts || this.#holdsPages(file, start, end)
  }

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
