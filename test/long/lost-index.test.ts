/** A real entrepot whose index is lost after a kill, and that comes back when somebody says how. */
import { cpSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { image, randomBytesOf } from '../support/images.ts'
import { Entrepot, entrepot, type EntrepotOptions } from '../support/process.ts'
import { pushImage } from '../support/push.ts'
import '../support/folders-last.ts'

const app = image({ layers: [300_000, 1000], seed: 'app' })

/** Pushed to, and killed. */
async function killed(t: Test): Promise<EntrepotOptions & { readonly root: string }> {
  const dir = t.testdir()
  const options = { dir, config: { push: { gcGrace: '1s' } } }
  const first = await Entrepot.start(t, options)
  await pushImage(`${first.url}/v2/team/x`, app, '1')
  first.program.kill('SIGKILL')
  await first.program.exited
  return { ...options, root: join(dir, 'data') }
}

const blobsIn = (root: string): string[] =>
  readdirSync(join(root, 'blobs'), { recursive: true, encoding: 'utf8' }).sort()

const status = async (url: string, name: string): Promise<number> =>
  (await fetch(`${url}/v2/${name}/manifests/${name.startsWith('recovered/') ? 'latest' : '1'}`)).status

test('killed, it starts with its write-ahead log; without it, it does not, and gives all back when told to', async (t) => {
  const { root, ...options } = await killed(t)
  const kept = join(options.dir, 'kept')
  cpSync(root, kept, { recursive: true })
  const again = await Entrepot.start(t, options)
  t.equal(await status(again.url, 'team/x'), 200)
  await again.program.stop()
  for (const suffix of ['-wal', '-shm']) t.notOk(existsSync(join(root, `metadata.sqlite${suffix}`)))
  const last = await Entrepot.start(t, options)
  t.equal(await status(last.url, 'team/x'), 200, 'nor is it needed after a clean stop')
  await last.program.stop()

  for (const spoil of [
    (file: string) => rmSync(file),
    (file: string) => writeFileSync(file, randomBytesOf(100_000)),
  ]) {
    rmSync(root, { recursive: true })
    cpSync(kept, root, { recursive: true })
    spoil(join(root, 'metadata.sqlite-wal'))
    const before = blobsIn(root)
    for (let time = 0; time < 2; time++) {
      t.match(await entrepot(options, 'serve'), {
        code: 1,
        stderr: /^entrepot cannot start: the index [^\n]*write-ahead log[^\n]*`verify --rebuild`[^\n]*\n$/,
      })
      t.match(await entrepot(options, 'gc'), { code: 1, stdout: '' })
    }
    t.same(blobsIn(root), before)
    t.match(await entrepot(options, 'verify', '--rebuild'), { code: 0, stdout: /recovered\/sha256-/ })
    const rebuilt = await Entrepot.start(t, options)
    t.equal(await status(rebuilt.url, `recovered/${app.manifest.digest.replace(':', '-')}`), 200)
    await rebuilt.program.stop()
    t.match(await entrepot(options, 'gc'), { code: 0, stdout: /^total\t\t0\t/m })
    t.same(blobsIn(root), before)
  }
})
