import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'tap'
import { acquireRootLock } from '../../../src/storage/locks/root-lock.ts'
import { startChild } from '../../support/stores.ts'

test('the folder is made, locked, and free again afterwards', async (t) => {
  const root = path.join(t.testdir(), 'not', 'there')
  const lock = acquireRootLock(root)
  const holder = JSON.parse(readFileSync(path.join(root, 'lock.json'), 'utf8')) as { pid: number }
  t.equal(holder.pid, process.pid)
  t.throws(() => acquireRootLock(root), { code: 'LOCKED', message: new RegExp(`process ${process.pid} on `) })
  lock[Symbol.dispose]()
  lock[Symbol.dispose]()
  t.notOk(existsSync(path.join(root, 'lock.json')))
  acquireRootLock(root)[Symbol.dispose]()
})

test('another process is refused and told who holds it, until that one is killed', async (t) => {
  const root = t.testdir()
  const child = startChild(t, 'hold-lock', root)
  t.equal((await child.lines.next()).value, 'held')
  const { pid } = JSON.parse(readFileSync(path.join(root, 'lock.json'), 'utf8')) as { pid: number }
  t.not(pid, process.pid)
  t.throws(() => acquireRootLock(root), {
    code: 'LOCKED',
    message: new RegExp(`process ${pid} on .*started 20`),
  })
  await child.kill()
  acquireRootLock(root)[Symbol.dispose]()
})

test('a holder file that cannot be read does not matter', async (t) => {
  const root = t.testdir()
  const lock = acquireRootLock(root)
  t.teardown(() => lock[Symbol.dispose]())
  writeFileSync(path.join(root, 'lock.json'), '{')
  t.throws(() => acquireRootLock(root), { code: 'LOCKED', message: /in use by another process/ })
})

test('files that another user owns are told with the permission', { skip: process.getuid?.() !== 0 }, (t) => {
  const root = t.testdir()
  acquireRootLock(root)[Symbol.dispose]()
  chmodSync(root, 0o777)
  const asNobody = (sentence: RegExp): void => {
    process.seteuid?.(65534)
    try {
      t.throws(() => acquireRootLock(root), { code: 'NOT_PERMITTED', message: sentence })
    } finally {
      process.seteuid?.(0)
    }
  }
  chmodSync(path.join(root, 'lock.sqlite'), 0o600)
  asNobody(/lock\.sqlite may not be read: user 65534 needs read permission for it \(its mode is 0600\)/)
  chmodSync(path.join(root, 'lock.sqlite'), 0o666)
  writeFileSync(path.join(root, 'lock.json'), '{}', { mode: 0o644 })
  asNobody(/lock\.json may not be written/)
  t.end()
})
