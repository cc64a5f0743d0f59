import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { missing, shortDir, succeed } from '../support/programs.ts'
import { Harbour, HARBOUR } from './harbour.ts'

test(
  'skopeo copies by the prefix form, with the registry and without',
  { skip: missing(...HARBOUR) },
  async (t) => {
    const harbour = await Harbour.open(t)
    const entrepot = await harbour.mirror(t)
    const out = shortDir(t)
    const manifests: Buffer[] = []
    await harbour.pullTwice(t, entrepot, 'quay.io', async (image) => {
      const source = `docker://127.0.0.1:${entrepot.port}/quay.io/${image}:1`
      const target = join(out, `${manifests.length}`)
      await succeed('skopeo', [
        '--insecure-policy',
        'copy',
        '-q',
        '--src-tls-verify=false',
        source,
        `dir:${target}`,
      ])
      manifests.push(readFileSync(join(target, 'manifest.json')))
    })
    t.same(manifests[2], manifests[0], 'the manifest is the same to the byte')
  },
)
