/** What stands still: clients that ask and then take nothing, and counts that do not change any more. */
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import type { Test } from 'tap'
import { TEST_CERTIFICATE } from './upstream-tls.ts'

/** Looks that have to see the same, so that a busy machine is not taken for one that has nothing to do. */
const LOOKS = 10
const EVERY_MS = 30

/**
 * Sends `text`, and resolves when the answer has begun to come: from then on nobody takes anything of it.
 *
 * On a busy machine a short idle time may be over before the server has read the question at all. Then nothing was
 * asked, the connection is gone without a word, and it is asked again.
 */
export async function askAndTakeNothing(t: Test, server: string, text: string): Promise<Socket> {
  const { protocol, hostname, port } = new URL(server)
  const address = { port: Number(port), host: hostname }
  for (;;) {
    const socket = protocol === 'https:' ? connectTls({ ...address, ca: TEST_CERTIFICATE }) : connect(address)
    t.teardown(() => socket.destroy())
    socket.on('error', () => undefined)
    const { promise: begun, resolve } = Promise.withResolvers<boolean>()
    socket.on('close', () => resolve(false))
    // Whoever listens for this and never reads fills one small buffer, and then the kernel's.
    socket.on('readable', () => {
      if (socket.readableLength > 0) resolve(true)
    })
    socket.write(text)
    if (await begun) return socket
  }
}

/** Resolves, with the count, when it has begun to grow and does so no more. */
export async function standstill(count: () => number): Promise<number> {
  let last = 0
  for (let same = 0; same < LOOKS;) {
    await sleep(EVERY_MS)
    const now = count()
    same = now > 0 && now === last ? same + 1 : 0
    last = now
  }
  return last
}
