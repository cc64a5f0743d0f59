/**
 * What a running entrepot holds, memory and descriptors, and what it leaves on the disk.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { lookAtRest, partialsIn } from './at-rest.ts'
import type { Entrepot } from './process.ts'

export interface Footprint {
  /** The resident set without garbage, in bytes. */
  readonly resident: number
  /** Of V8's heap in use. */
  readonly heap: number
  /** Open descriptors: kind -> how many. */
  readonly descriptors: Readonly<Record<string, number>>
}

/** More than this is a leak. */
const TOLERANCE = 1.1
/** Connections and files that nobody uses are closed by then. */
const SETTLED_MS = 30_000
/** Longer than a connection is kept for the next request. */
const QUIET_MS = 5_000

/** @param entrepot  started with `collect-garbage.ts` */
export async function footprintOf(entrepot: Entrepot): Promise<Footprint> {
  const collected = (): number => entrepot.program.stdout.split('garbage collected').length
  const before = collected()
  process.kill(entrepot.program.pid!, 'SIGUSR2')
  await entrepot.program.ready(() => collected() > before)
  const heap = await entrepot.metric('nodejs_heap_size_used_bytes')
  const proc = `/proc/${String(entrepot.program.pid)}`
  const resident = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`${proc}/status`, 'utf8'))?.[1]
  const descriptors: Record<string, number> = {}
  for (const fd of readdirSync(`${proc}/fd`)) {
    const kind = kindOf(`${proc}/fd/${fd}`)
    if (kind !== undefined) descriptors[kind] = (descriptors[kind] ?? 0) + 1
  }
  return { resident: Number(resident) * 1024, heap, descriptors }
}

/** The footprint when it has not fallen for a while: whatever closes by itself has closed. */
export async function settledFootprint(entrepot: Entrepot): Promise<Footprint> {
  const deadline = performance.now() + SETTLED_MS
  let least = await footprintOf(entrepot)
  for (let quietSince = performance.now(); performance.now() < deadline;) {
    await sleep(500)
    const now = await footprintOf(entrepot)
    if (openIn(now) < openIn(least)) quietSince = performance.now()
    least = now
    if (performance.now() - quietSince > QUIET_MS) break
  }
  return least
}

function openIn({ descriptors }: Footprint): number {
  return Object.values(descriptors).reduce((sum, count) => sum + count, 0)
}

/** Sentences; none when nothing has grown. */
export function growthOf(before: Footprint, after: Footprint): string[] {
  const figures = (it: Footprint): Record<string, number> => ({ resident: it.resident, ...it.descriptors })
  const earlier = figures(before)
  return Object.entries(figures(after)).flatMap(([what, value]) => {
    const was = earlier[what] ?? 0
    return value <= was * TOLERANCE ? [] : [`${what}: ${value} instead of ${was}`]
  })
}

export function describeFootprint({ resident, heap, descriptors }: Footprint): string {
  const MiB = 2 ** 20
  const open = Object.entries(descriptors).map(([kind, count]) => `${count} ${kind}`)
  return `${(resident / MiB).toFixed(0)} MiB resident, ${(heap / MiB).toFixed(0)} MiB of heap, ${open.join(', ')}`
}

/** Of a process that has stopped: what is on its disk that must not be. Sentences. */
export function wrongAtRest(root: string): string[] {
  const right = new Set<string>()
  const wrong: string[] = []
  const folder = path.join(root, 'blobs')
  const blobs = existsSync(folder) ? readdirSync(folder, { recursive: true, withFileTypes: true }) : []
  for (const entry of blobs) {
    if (!entry.isFile()) continue
    const bytes = readFileSync(path.join(entry.parentPath, entry.name))
    if (createHash('sha256').update(bytes).digest('hex') === entry.name) right.add(`sha256:${entry.name}`)
    else wrong.push(`${entry.name} holds other bytes`)
  }
  // No layer is so large that a part of it were worth keeping.
  const partials = partialsIn(root).map((name) => `the partial file ${name} was left behind`)
  return [...wrong, ...partials, ...lookAtRest(root, new Map(), right).faults]
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
