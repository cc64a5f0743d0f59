/**
 * What a process costs, by what the kernel says of it (Linux only).
 */
import { readFileSync } from 'node:fs'

/** Resident now, or at the most since it began, in bytes; 0 when it has gone. */
export function residentBytes(pid: number | undefined, which: 'now' | 'peak' = 'now'): number {
  try {
    const status = readFileSync(`/proc/${String(pid)}/status`, 'utf8')
    const line = which === 'now' ? /^VmRSS:\s+(\d+) kB/m : /^VmHWM:\s+(\d+) kB/m
    return Number(line.exec(status)?.[1] ?? 0) * 1024
  } catch {
    return 0
  }
}

/** User and system time of the process so far. */
export function cpuSeconds(pid: number | undefined): number {
  const stat = readFileSync(`/proc/${String(pid)}/stat`, 'utf8')
  // Fields 14 and 15, counted behind the command, which may hold anything; in ticks of 1/100 s.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}
