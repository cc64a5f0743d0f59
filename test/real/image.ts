/**
 * Images made of this machine's own programs, pushed to a real registry.
 */
import { createReadStream, createWriteStream, mkdirSync, statSync, writeFileSync } from 'node:fs'
import { cp, mkdir, symlink } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { rename } from 'node:fs/promises'
import { run, succeed, type Finished } from '../support/programs.ts'

export const GREETING = 'hello from the quay'

interface Descriptor {
  mediaType: string
  digest: string
  size: number
}

/** What a layer holds: path in the image -> file of this machine, or the target of a link. */
export type LayerFiles = Record<string, { file: string } | { link: string }>

export const BUSYBOX: LayerFiles = {
  'bin/busybox': { file: '/bin/busybox' },
  'bin/echo': { link: 'busybox' },
  'bin/ls': { link: 'busybox' },
}

/** Writes an OCI layout with one image, tagged `1`, that prints the greeting. Returns the bytes of its layers. */
export async function writeLayout(dir: string, layers: readonly LayerFiles[]): Promise<number> {
  const blobs = join(dir, 'blobs/sha256')
  mkdirSync(blobs, { recursive: true })
  const built: (Descriptor & { diffId: string })[] = []
  for (const [index, files] of layers.entries()) {
    const root = join(dir, `root-${index}`)
    for (const [path, from] of Object.entries(files)) {
      const target = join(root, path)
      await mkdir(join(target, '..'), { recursive: true })
      await ('file' in from ? cp(from.file, target, { dereference: true }) : symlink(from.link, target))
    }
    built.push(await writeLayer(blobs, root))
  }
  const config = writeBlob(blobs, 'application/vnd.oci.image.config.v1+json', {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    config: { Cmd: ['/bin/echo', GREETING] },
    rootfs: { type: 'layers', diff_ids: built.map(({ diffId }) => diffId) },
    // Without one there is nothing that a schema 1 manifest could be made of.
    history: layers.map((files) => ({ created_by: Object.keys(files).join(' ') })),
  })
  const manifestType = 'application/vnd.oci.image.manifest.v1+json'
  const manifest = writeBlob(blobs, manifestType, {
    schemaVersion: 2,
    mediaType: manifestType,
    config,
    layers: built.map(({ mediaType, digest, size }) => ({ mediaType, digest, size })),
  })
  const annotations = { 'org.opencontainers.image.ref.name': '1' }
  writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  writeFileSync(
    join(dir, 'index.json'),
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }),
  )
  return built.reduce((sum, { size }) => sum + size, 0)
}

export async function pushLayout(dir: string, reference: string): Promise<void> {
  const { code, stderr } = await copyImage(`oci:${dir}:1`, `docker://${reference}`)
  if (code !== 0) throw new Error(`skopeo copy to ${reference} ended with ${String(code)}:\n${stderr}`)
}

/** By skopeo, from one of the places it knows to another; whatever comes of it. */
export function copyImage(from: string, to: string): Promise<Finished> {
  const insecure = ['--insecure-policy', 'copy', '-q', '--src-tls-verify=false', '--dest-tls-verify=false']
  return run('skopeo', [...insecure, from, to])
}

/** Stored rather than deflated: what counts is the bytes on the wire, not a minute of compressing. */
async function writeLayer(blobs: string, root: string): Promise<Descriptor & { diffId: string }> {
  const tar = `${root}.tar`
  await succeed('tar', ['-C', root, '--owner=0', '--group=0', '-cf', tar, '.'])
  const plain = createHash('sha256')
  const packed = createHash('sha256')
  const spy = (hash: typeof plain) =>
    new PassThrough().on('data', (chunk: Buffer) => {
      hash.update(chunk)
    })
  const file = join(blobs, 'layer')
  await pipeline(
    createReadStream(tar),
    spy(plain),
    createGzip({ level: 0 }),
    spy(packed),
    createWriteStream(file),
  )
  const hex = packed.digest('hex')
  const { size } = statSync(file)
  await rename(file, join(blobs, hex))
  return {
    mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    digest: `sha256:${hex}`,
    size,
    diffId: `sha256:${plain.digest('hex')}`,
  }
}

function writeBlob(blobs: string, mediaType: string, value: unknown): Descriptor {
  const bytes = Buffer.from(JSON.stringify(value))
  const hex = createHash('sha256').update(bytes).digest('hex')
  writeFileSync(join(blobs, hex), bytes)
  return { mediaType, digest: `sha256:${hex}`, size: bytes.length }
}
