/**
 * Check of an SQLite write-ahead log, from the file alone: whether it holds what was synced into it.
 *
 * SQLite takes what it can read and passes over the rest in silence: of an overwritten log it takes what stands
 * before the damage, or nothing. A power cut tears no more than the one transaction that was not synced yet, so
 * damage with two commits behind it has another cause.
 * Format: https://sqlite.org/fileformat2.html § 4 The Write-Ahead Log
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { systemCode } from '../../files/files.ts'

const HEADER = 32
const FRAME_HEADER = 24

/** The last bit tells the byte order of the checksums. */
const MAGIC = 0x377f0682

type Sum = readonly [number, number]

/** @throws the system's error when the log cannot be read */
export function stateOfLog(path: string): 'absent' | 'damaged' | 'sound' {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 'absent'
    throw error
  }
  try {
    const { size } = fstatSync(file)
    return size === 0 ? 'absent' : isSound(file, size) ? 'sound' : 'damaged'
  } finally {
    closeSync(file)
  }
}

function isSound(file: number, size: number): boolean {
  const header = Buffer.alloc(HEADER)
  if (readSync(file, header, 0, HEADER, 0) < HEADER) return false
  const magic = header.readUInt32BE(0)
  if ((magic & ~1) >>> 0 !== MAGIC) return false
  const bigEndian = (magic & 1) === 1
  let sum = add([0, 0], header.subarray(0, 24), bigEndian)
  if (!isEqual(sum, header, 24)) return false

  const pageSize = header.readUInt32BE(8)
  const frame = Buffer.alloc(FRAME_HEADER + pageSize)
  const salts = header.subarray(16, 24)
  let intact = true
  let commitsBehind = 0
  for (let at = HEADER; at + frame.length <= size; at += frame.length) {
    readSync(file, frame, 0, frame.length, at)
    // Frames that an earlier round has left behind the present one have other salts.
    const isOfThisRound = frame.subarray(8, 16).equals(salts)
    if (intact && isOfThisRound) {
      const next = add(add(sum, frame.subarray(0, 8), bigEndian), frame.subarray(FRAME_HEADER), bigEndian)
      intact = isEqual(next, frame, 16)
      sum = next
    } else intact = false
    if (!intact && isOfThisRound && frame.readUInt32BE(4) !== 0) commitsBehind += 1
  }
  return commitsBehind < 2
}

function add([one, two]: Sum, bytes: Buffer, bigEndian: boolean): Sum {
  for (let at = 0; at < bytes.length; at += 8) {
    const [first, second] = bigEndian
      ? [bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)]
      : [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)]
    one = (one + first + two) >>> 0
    two = (two + second + one) >>> 0
  }
  return [one, two]
}

function isEqual([one, two]: Sum, bytes: Buffer, at: number): boolean {
  return bytes.readUInt32BE(at) === one && bytes.readUInt32BE(at + 4) === two
}
