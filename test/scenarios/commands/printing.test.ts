/** What commands print of what others said: nothing that a terminal acts upon. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { verify } from '../../../src/admin/cli/verify.ts'
import { recordedEdge } from '../../support/edge.ts'
import { layer } from '../../support/images.ts'
import { Entrepot, entrepot } from '../../support/process.ts'
import { pushBlob } from '../../support/push.ts'
import '../../support/folders-last.ts'

const BAD = 'a\u009b31m\u202eevil\u2066\u001b[2J\r\u007f\nfake line'
const SHOWN = 'a\\u009b31m\\u202eevil\\u2066\\u001b[2J\\u000d\\u007f\\u000afake line'
const UNSEEN = /[^\n\x20-\x7e]/

test('a command shows where such a character was, also of a running server', async (t) => {
  const dir = t.testdir()
  const server = await Entrepot.start(t, { dir })
  t.equal((await pushBlob(`${server.url}/v2/team/app`, layer({ size: 10 }))).status, 201)
  // A stranger's file: any user of the folder may give it any name.
  writeFileSync(join(dir, 'data/blobs/sha256', BAD), '')
  const told = await entrepot({ dir }, 'verify')
  t.match(told.stdout, SHOWN)
  t.notMatch(told.stdout, UNSEEN)

  const edge = recordedEdge()
  await verify({ config: join(dir, 'config.yaml') }, edge)
  t.ok(edge.printed.some((line) => line.includes(SHOWN.slice(-9))))
  t.notOk(
    edge.printed.some((line) => line.includes('\n') || line.startsWith('fake')),
    'nor is it a line of its own',
  )

  const wrong = await entrepot({ dir }, 'rm', 'team/\u009b31m\u202e\u001b[2J')
  t.equal(wrong.code, 1)
  t.match(wrong.stderr, 'team/\\u009b31m\\u202e\\u001b[2J')
  t.notMatch(wrong.stderr, UNSEEN)
})
