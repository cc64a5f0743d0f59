/**
 * A mirror that nobody takes care of, for some minutes.
 *
 *     node bench/soak.ts [--minutes 15] [--requests N] [--clients 12] [--budget 200] [--seed 1]     (MiB)
 *
 * A line for each fifteenth of the time, and a JSON line at the end. Exit code 1 when anything failed that no bad
 * day of an upstream excuses, a push was lost, the account is not what is on the disk, or more is held than before.
 */
import { parseArgs } from 'node:util'
import { soak } from './support/soak/run.ts'
import { growthIn } from './support/soak/figures.ts'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '15' },
    requests: { type: 'string', default: '1000000000' },
    clients: { type: 'string', default: '12' },
    budget: { type: 'string', default: '200' },
    seed: { type: 'string', default: '1' },
  },
})
const MiB = 1024 * 1024
const result = await soak({
  minutes: Number(values.minutes),
  requests: Number(values.requests),
  clients: Number(values.clients),
  budgetMiB: Number(values.budget),
  seed: Number(values.seed),
  lines: 15,
  print: (line) => console.log(line),
})
const { failures, start, end, disk, servedBytes, ...rest } = result
console.log(
  `\nresident   ${inMiB(start.residentBytes)} MiB after the first part, ${inMiB(end.residentBytes)} at the end`,
)
console.log(`fds        ${String(start.descriptors)}, ${String(end.descriptors)}`)
console.log(
  `account    ${inMiB(end.mirroredBytes)} MiB mirrored and ${inMiB(end.pushedBytes)} pushed, ${inMiB(disk.blobs + disk.parts + disk.answers)} on the disk and in the index`,
)
console.log(`evicted    ${inMiB(end.evictedBytes)} MiB; read again by the scrub ${inMiB(end.scrubbedBytes)}`)
console.log(
  `failures   ${String(failures.length)}; ${String(rest.injected)} refused or broken off in a storm`,
)
for (const { atMs, what, why } of failures.slice(0, 30)) {
  console.log(`  after ${(atMs / 1000).toFixed(1)} s  ${what}: ${why}`)
}
const growth = growthIn(start, end)
for (const line of growth) console.log(`more than before: ${line}`)
console.log(
  JSON.stringify({
    bench: 'soak',
    ...{ minutes: Number(values.minutes), ...rest, servedMiB: inMiB(servedBytes), failures: failures.length },
    ...{ start, end, disk },
  }),
)
if (failures.length > 0 || growth.length > 0) process.exitCode = 1

function inMiB(bytes: number): string {
  return (bytes / MiB).toFixed(0)
}
