/**
 * Boot id: tells one run of the machine from the next.
 *
 * Unsynced bytes outlive a process, not a power cut: all bytes that were written in the same run are there.
 */
import { readFile } from 'node:fs/promises'

/** @returns undefined where it cannot be told: then only synced bytes count */
export async function currentBoot(): Promise<string | undefined> {
  try {
    return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  } catch {
    return undefined
  }
}
