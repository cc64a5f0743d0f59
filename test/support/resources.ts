/**
 * What this process holds: to be the same after as before.
 */
import { readdirSync, readlinkSync } from 'node:fs'
import type { Test } from 'tap'
import { Agent, setGlobalDispatcher } from 'undici'
import { eventually, pull, pullSame, simulate, startMirror } from './app.ts'
import { image } from './images.ts'

export interface Resources {
  /** Kinds of open descriptors, sorted. */
  readonly files: readonly string[]
  readonly threads: number
}

export function resources(): Resources {
  const files = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      // Sockets and pipes without their numbers.
      return [readlinkSync(`/proc/self/fd/${fd}`).replace(/\[\d+\]$/, '')]
    } catch {
      return []
    }
  })
  return {
    files: files.filter((target) => !target.startsWith('/proc/')).sort(),
    threads: readdirSync('/proc/self/task').length,
  }
}

let clients = new Agent()
setGlobalDispatcher(clients)

/** Closes the connections of all `pull`s. */
export async function closeClients(): Promise<void> {
  const before = clients
  clients = new Agent()
  setGlobalDispatcher(clients)
  await before.destroy()
}

/** Fails the test when more is held than before, also after a while. */
export async function holdsNoMore(t: Test, before: Resources): Promise<void> {
  const settled = (): boolean => {
    const { files, threads } = resources()
    return files.length <= before.files.length && threads <= before.threads
  }
  await eventually('nothing more is held', settled).catch(() => {
    t.same(resources(), before, 'nothing more is held than before')
  })
}

/** Everything of a first start that stays for good (pools, threads of the platform) is there afterwards. */
export async function warmUp(t: Test): Promise<void> {
  const upstream = await simulate(t)
  const warm = image({ layers: [3 * 1024 * 1024] })
  upstream.addImage('library/warm', '1', warm)
  const mirror = await startMirror(t, upstream)
  await pull(`${mirror.url}/v2/library/warm/manifests/1`)
  await pullSame(`${mirror.url}/v2/library/warm/blobs/${warm.layers[0]!.digest}`, warm.layers[0]!)
  await mirror.close()
  await upstream.close()
  await closeClients()
}
