/**
 * Which run of the machine this is.
 *
 * Unsynced bytes outlive a process, not a power cut: what was written in the same run is all there.
 */
import { readFile } from 'node:fs/promises'

/** `undefined` where it cannot be told: then only what was synced counts. */
export async function currentBoot(): Promise<string | undefined> {
  try {
    return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  } catch {
    return undefined
  }
}
