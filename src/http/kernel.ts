/**
 * The few system calls that move a file into a socket without our touching its bytes, through `node:ffi`.
 *
 * Experimental in Node, so everything here may be missing: {@link openKernel} then says so, and whoever asked copies
 * the bytes. Whatever is handed to the kernel stays referenced by the object: it writes where it was told to, also
 * when the garbage collector has given that memory to somebody else.
 */
import type * as Ffi from 'node:ffi'
import { platform, arch } from 'node:process'

type Descriptor = number
type Bytes = number

export interface Kernel {
  /**
   * From the file to the socket, as many as it takes at once.
   *
   * @returns bytes moved; 0: it takes none now, or never will again (an ordinary write tells which)
   */
  sendFile(socket: Descriptor, file: Descriptor, position: Bytes, count: Bytes): Bytes
  /** Whether the file's pages at both ends and in the middle are in memory, so that sending them does not wait. */
  isResident(file: Descriptor, position: Bytes, count: Bytes): boolean
  /**
   * How often this thread has waited inside the kernel so far, and not only for a processor: it grows when a call had
   * to wait for the disk after all.
   */
  waits(): number
}

const CALLS = {
  sendfile: { return: 'int64', arguments: ['int32', 'int32', 'buffer', 'uint64'] },
  preadv2: { return: 'int64', arguments: ['int32', 'buffer', 'int32', 'int64', 'int32'] },
  getrusage: { return: 'int32', arguments: ['int32', 'buffer'] },
} as const

/** Their numbers, the same on all of the architectures below. */
const RWF_NOWAIT = 8
const RUSAGE_THREAD = 1
/** `struct rusage`, in words: two times, then fourteen numbers. */
const RUSAGE_WORDS = 18
const VOLUNTARY_SWITCHES = 16

/** @returns undefined where it cannot be: another system, a Node without FFI, a libc without these calls */
export async function openKernel(): Promise<Kernel | undefined> {
  if (platform !== 'linux' || !['x64', 'arm64'].includes(arch)) return undefined
  try {
    return new LinuxKernel(await import('node:ffi'))
  } catch {
    return undefined
  }
}

function load({ dlopen }: typeof Ffi) {
  return dlopen(null, CALLS)
}

class LinuxKernel implements Kernel {
  /** The functions go with it. */
  readonly #library: ReturnType<typeof load>
  readonly #offset = new BigInt64Array(1)
  readonly #usage = new BigInt64Array(RUSAGE_WORDS)
  readonly #probe = Buffer.allocUnsafeSlow(8)
  /** `struct iovec` of one byte of the probe. */
  readonly #vector = new BigUint64Array(2)

  constructor(ffi: typeof Ffi) {
    this.#library = load(ffi)
    this.#vector[0] = ffi.getRawPointer(this.#probe)
    this.#vector[1] = 1n
  }

  sendFile(socket: Descriptor, file: Descriptor, position: Bytes, count: Bytes): Bytes {
    this.#offset[0] = BigInt(position)
    const { sendfile } = this.#library.functions
    return Math.max(Number(sendfile(socket, file, this.#offset, BigInt(count))), 0)
  }

  isResident(file: Descriptor, position: Bytes, count: Bytes): boolean {
    return [position, position + (count >> 1), position + count - 1].every((at) => this.#holds(file, at))
  }

  #holds(file: Descriptor, at: Bytes): boolean {
    const { preadv2 } = this.#library.functions
    return preadv2(file, this.#vector, 1, BigInt(at), RWF_NOWAIT) === 1n && this.#probe.length > 0
  }

  waits(): number {
    this.#library.functions.getrusage(RUSAGE_THREAD, this.#usage)
    return Number(this.#usage[VOLUNTARY_SWITCHES])
  }
}
