/** Who may read what in `storage.root`: its owner, and of the blobs everybody. */
import '../../support/folders-last.ts'
import { chmodSync, existsSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { startMirror, pull } from '../../support/app.ts'
import { alone, blobFile } from '../../support/folder.ts'
import { image } from '../../support/images.ts'
import { pushBlob, pushImage, send } from '../../support/push.ts'

const NOBODY = { url: 'http://127.0.0.1:9' }
const APP = image({ layers: [3000] })

/** Whatever others than the owner can reach, by its path, and what they may do to it. */
function open(root: string): Record<string, string> {
  const found: Record<string, string> = {}
  const look = (name: string): void => {
    const at = path.join(root, name)
    const { mode } = statSync(at)
    if ((mode & 0o077) !== 0) found[name] = (mode & 0o077).toString(8)
    if (statSync(at).isDirectory() && (mode & 0o011) !== 0) {
      for (const entry of readdirSync(at)) if (name !== '.' || entry !== 'blobs') look(path.join(name, entry))
    }
  }
  look('.')
  return found
}

test('others than the owner pass through the folder to the blobs, and reach nothing else', async (t) => {
  const root = path.join(t.testdir(), 'made', 'here')
  const server = await startMirror(t, NOBODY, { root, config: { local: ['team/**'] } })
  const repository = `${server.url}/v2/team/app`
  await pushImage(repository, APP, '1')
  t.equal((await send(`${repository}/blobs/uploads/`, 'POST')).status, 202)
  t.same(open(root), { '.': '11' })
  // As the umask has it.
  const file = path.join(t.testdirName, 'file')
  writeFileSync(file, '')
  t.equal(statSync(path.join(root, 'blobs')).mode, statSync(t.testdirName).mode)
  t.equal(statSync(blobFile(root, APP.layers[0]!.digest)).mode, statSync(file).mode)
  await server.close()
  t.same(open(root), { '.': '11' })
})

test('what an earlier version left open is closed by the next start, also while nobody serves', async (t) => {
  const root = path.join(t.testdir(), 'root')
  const server = await startMirror(t, NOBODY, { root, config: { local: ['team/**'] } })
  await pushImage(`${server.url}/v2/team/app`, APP, '1')
  writeFileSync(blobFile(root, APP.layers[0]!.digest), 'damaged')
  t.equal((await pull(`${server.url}/v2/team/app/blobs/${APP.layers[0]!.digest}`)).status, 500)
  await pushBlob(`${server.url}/v2/team/app`, APP.layers[0]!)
  await server.close()
  t.ok(existsSync(path.join(root, 'quarantine')))
  const loosen = (): void => {
    chmodSync(root, 0o755)
    for (const name of readdirSync(root)) {
      const at = path.join(root, name)
      chmodSync(at, statSync(at).isDirectory() ? 0o755 : 0o644)
    }
  }
  loosen()
  // That folder itself may have been made by a person, for more than this.
  await alone(root, () => Promise.resolve(t.same(open(root), { '.': '55' })))
  loosen()
  await startMirror(t, NOBODY, { root })
  t.same(open(root), { '.': '55' })
})
