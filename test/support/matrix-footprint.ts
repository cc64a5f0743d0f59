/**
 * What a running entrepot holds: memory, descriptors by kind, threads.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import type { Entrepot } from './process.ts'

export interface Footprint {
  readonly residentBytes: number
  /** Used by V8's heap: garbage included, so for the reader only. */
  readonly heapBytes: number
  /** Open descriptors: kind -> how many. */
  readonly descriptors: Readonly<Record<string, number>>
  readonly threads: number
}

export async function footprintOf(entrepot: Entrepot): Promise<Footprint> {
  const heapBytes = await entrepot.metric('nodejs_heap_size_used_bytes')
  const pid = String(entrepot.program.pid)
  const resident = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  const descriptors: Record<string, number> = {}
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const kind = kindOf(`/proc/${pid}/fd/${fd}`)
    if (kind !== undefined) descriptors[kind] = (descriptors[kind] ?? 0) + 1
  }
  return {
    residentBytes: Number(resident) * 1024,
    heapBytes,
    descriptors,
    threads: readdirSync(`/proc/${pid}/task`).length,
  }
}

function kindOf(link: string): string | undefined {
  try {
    const target = readlinkSync(link)
    return /^(socket|pipe|anon_inode)/.exec(target)?.[1] ?? 'file'
  } catch {
    // Closed while we looked.
    return undefined
  }
}
