/**
 * A folder with what was pushed to it, a backup of that, and what is looked at when it has come back.
 */
import { cpSync, createReadStream, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Test } from 'tap'
import { connectToServer } from '../../src/admin/control/client.ts'
import type { Operations } from '../../src/admin/operations.ts'
import type { BackupEvent } from '../../src/admin/archive/write-archive.ts'
import type { Contents } from '../../src/admin/archive/format.ts'
import type { RestoreEvent } from '../../src/admin/archive/restore-repository.ts'
import { readTar } from '../../src/admin/archive/read-tar.ts'
import { pull, type Pulled } from './app.ts'
import { alone } from './folder.ts'
import { image, index, type Content, type Image } from './images.ts'
import { seedLocal } from './local.ts'

export const APP = image({ seed: 'app', layers: [300_000, 1000] })
export const ARM = image({ seed: 'arm', layers: [700], architecture: 'arm64' })
export const MULTI = index({ images: { amd64: APP, arm64: ARM } })
export const SIGNATURE = image({
  seed: 'signature',
  subject: APP.manifest,
  artifactType: 'application/vnd.test.signature',
})
export const LONG = image({ seed: 'long', algorithm: 'sha512', layers: [{ size: 900, algorithm: 'sha512' }] })
export const PLAIN = image({ seed: 'docker', format: 'docker' })
/** Nobody listens there. */
export const NOBODY = { url: 'http://127.0.0.1:9' }

type Restored = Extract<RestoreEvent, { restored: unknown }>['restored']

export async function toEnd(events: AsyncIterable<unknown>): Promise<void> {
  for await (const event of events) if (event === undefined) return
}

export async function save(keeper: Operations, to: string): Promise<BackupEvent[]> {
  const events: BackupEvent[] = []
  for await (const event of keeper.backup({ to }, new AbortController().signal)) {
    if (!('progress' in event)) events.push(event)
  }
  return events
}

export async function bringBack(
  keeper: Operations,
  from: string,
  overwrite = false,
  allowDenied = false,
): Promise<RestoreEvent[]> {
  const events: RestoreEvent[] = []
  for await (const event of keeper.restore({ from, overwrite, allowDenied }, new AbortController().signal)) {
    if (!('progress' in event)) events.push(event)
  }
  return events
}

export const news = (events: RestoreEvent[]): Restored[] =>
  events.flatMap((it) => ('restored' in it ? [it.restored] : []))

export async function filesIn(archive: string): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>()
  for await (const { name, body } of readTar(createReadStream(archive))) {
    const parts: Buffer[] = []
    for await (const part of body) parts.push(part)
    files.set(name, Buffer.concat(parts))
  }
  return files
}

export async function contentsOf(file: string): Promise<Contents> {
  const { repositories, lost } = JSON.parse(String((await filesIn(file)).get('entrepot.json'))) as Contents
  return { repositories, lost }
}

export async function findings(root: string): Promise<unknown[]> {
  return alone(root, async (keeper, signal) => {
    const found: unknown[] = []
    for await (const event of keeper.verify({ repair: false }, signal)) {
      if ('finding' in event) found.push(event.finding)
    }
    return found
  })
}

/** Made once, and copied: what is written to a folder is synced, which takes its time. */
let original: Promise<string> | undefined

async function makeOriginal(): Promise<string> {
  const dir = mkdtempSync(path.join(tmpdir(), 'entrepot-backup-'))
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }))
  const root = path.join(dir, 'root')
  await seedLocal(root, [
    { name: 'team/app', tags: { 1: APP, latest: APP, multi: MULTI }, images: [SIGNATURE] },
    { name: 'team/long', tags: { '9': LONG }, images: [PLAIN] },
    { name: 'team/emptied' },
  ])
  await alone(root, (keeper) => save(keeper, path.join(dir, 'backup.tar')))
  return dir
}

interface Saved {
  readonly dir: string
  readonly root: string
  /** The backup of `root`. */
  readonly file: string
  /** An empty folder. */
  readonly other: string
}

export async function saved(t: Test): Promise<Saved> {
  const dir = t.testdir({ root: {}, other: {}, layout: {}, server: {} })
  cpSync(await (original ??= makeOriginal()), dir, { recursive: true })
  return {
    dir,
    root: path.join(dir, 'root'),
    file: path.join(dir, 'backup.tar'),
    other: path.join(dir, 'other'),
  }
}

export function isSame({ status, body }: Pulled, { bytes }: Content): boolean {
  return status === 200 && body.equals(bytes)
}

/** Everything of the image, by that server. */
export async function serves(t: Test, repository: string, it: Image, reference: string): Promise<void> {
  const manifest = await pull(`${repository}/manifests/${reference}`)
  t.ok(isSame(manifest, it.manifest), `${reference} of ${repository}`)
  t.equal(manifest.headers['content-type'], it.manifest.mediaType)
  for (const part of it.manifests) {
    t.ok(isSame(await pull(`${repository}/manifests/${part.digest}`), part), part.mediaType)
  }
  for (const part of it.blobs)
    t.ok(isSame(await pull(`${repository}/blobs/${part.digest}`), part), part.digest)
}

/** The operations of a running server, through its socket. */
export async function keeperOf(root: string): Promise<Operations> {
  const keeper = await connectToServer(root, new AbortController().signal)
  if (keeper === undefined) throw new Error('nobody listens')
  return keeper
}

export async function collect(keeper: Operations): Promise<void> {
  await toEnd(keeper.gc({ dryRun: false }, new AbortController().signal))
}
