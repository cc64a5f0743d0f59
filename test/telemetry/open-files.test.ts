/** The limit of open files: what the system says it is, and how often it is spoken of. */
import { test } from 'tap'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { OpenFiles, openFilesLimit, parseOpenFilesLimit } from '../../src/telemetry/open-files.ts'

test('the soft limit of this process', async (t) => {
  const text = (soft: string): string =>
    'Limit                     Soft Limit           Hard Limit           Units     \n' +
    `Max processes             1                    2                    processes \n` +
    `Max open files            ${soft.padEnd(21)}524288               files     \n`
  t.equal(parseOpenFilesLimit(text('1024')), 1024)
  t.equal(parseOpenFilesLimit(text('unlimited')), undefined)
  t.equal(parseOpenFilesLimit(''), undefined)
  const own = await openFilesLimit()
  t.ok(process.platform !== 'linux' || own === undefined || own > 0)
})

test('one line a minute, a figure for each, and over after half a minute', async (t) => {
  const metrics = createMetrics()
  const clock = { now: 0 }
  let lines = 0
  const files = new OpenFiles({ metrics, log: { warn: () => (lines += 1) }, now: () => clock.now })
  t.equal(files.exhausted, false)
  for (let time = 0; time < 100; time++) files.met('connection')
  t.equal(lines, 1)
  t.equal(files.exhausted, true)
  clock.now += 29_999
  t.equal(files.exhausted, true)
  clock.now += 1
  t.equal(files.exhausted, false)
  clock.now += 30_000
  files.met('upstream', new Error('EMFILE'))
  t.equal(lines, 2)
  t.match(await metrics.scrape(), /^entrepot_out_of_files_total\{what="connection"\} 100$/m)
})
