/**
 * A server that strangers are at, and whether everybody else is still answered.
 */
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import type { Test } from 'tap'
import { Entrepot, type EntrepotOptions } from '../process.ts'

/** As `npm start` does it. */
export function startAsUsual(t: Test, options: EntrepotOptions): Promise<Entrepot> {
  return Entrepot.start(t, {
    ...options,
    env: { MALLOC_ARENA_MAX: '2', MALLOC_TRIM_THRESHOLD_: '131072', UV_THREADPOOL_SIZE: '16' },
    execArgv: ['--max-semi-space-size=8', '--heap-growing-percent=30', '--expose-gc'],
  })
}

/** In bytes: now, or the most of its whole life. */
export function resident(pid: number, which: 'VmRSS' | 'VmHWM'): number {
  const line = new RegExp(`^${which}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return Number(line?.[1]) * 1024
}

/** So long the server itself has computed so far, whoever else has the machine. */
function computed(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/task/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) * 10
}

/** A processor that computes for others as well does half as much in the same time. */
const SHARED = 2

/**
 * How long one answer took, on a connection of its own: no longer than the clock says, and on a machine that is busy with
 * something else no longer than what the server computed would have taken.
 */
export function ask({ url, program }: Entrepot): Promise<number> {
  const [startedAt, before] = [performance.now(), computed(program.pid ?? 0)]
  return new Promise((resolve, reject) => {
    request(`${url}/livez`, { agent: false }, (answer) => {
      const took = performance.now() - startedAt
      answer.resume().on('end', () => resolve(Math.min(took, (computed(program.pid ?? 0) - before) / SHARED)))
    })
      .on('error', reject)
      .end()
  })
}

/** Asks `/livez` again and again while `work` runs. @returns the longest that it took */
export async function longestAnswer(entrepot: Entrepot, work: Promise<unknown>): Promise<number> {
  const attack = { over: false }
  const watched = work.finally(() => {
    attack.over = true
  })
  let longest = 0
  while (!attack.over) longest = Math.max(longest, await ask(entrepot))
  await watched
  return longest
}
