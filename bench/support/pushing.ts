/** Pushes as simple as they come: to fill a registry before it is measured. */
import { createHash } from 'node:crypto'
import { request } from 'undici'

export async function pushBlob(url: string, name: string, digest: string, bytes: Buffer): Promise<void> {
  const uploads = `${url}/v2/${name}/blobs/uploads/`
  const begun = await request(uploads, { method: 'POST' })
  await begun.body.dump()
  const target = new URL(String(begun.headers['location']), uploads)
  target.searchParams.set('digest', digest)
  const headers = { 'content-type': 'application/octet-stream', 'content-length': String(bytes.length) }
  const answer = await request(target, { method: 'PUT', headers, body: bytes, headersTimeout: 300_000 })
  if (answer.statusCode !== 201) throw new Error(`PUT ${target.href}: ${await answer.body.text()}`)
  await answer.body.dump()
}

/** An image of one small layer. @returns the manifest's digest */
export async function pushImage(url: string, name: string, tag: string, seed: string): Promise<string> {
  const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', seed }))
  const layer = Buffer.from(`layer of ${seed}`)
  for (const it of [config, layer]) await pushBlob(url, name, digestOf(it), it)
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: TYPE,
      config: descriptor('application/vnd.oci.image.config.v1+json', config),
      layers: Array.from({ length: 6 }, () =>
        descriptor('application/vnd.oci.image.layer.v1.tar+gzip', layer),
      ),
    }),
  )
  const target = `${url}/v2/${name}/manifests/${tag}`
  const answer = await request(target, { method: 'PUT', headers: { 'content-type': TYPE }, body: manifest })
  if (answer.statusCode !== 201) throw new Error(`PUT ${target}: ${await answer.body.text()}`)
  await answer.body.dump()
  return digestOf(manifest)
}

export const TYPE = 'application/vnd.oci.image.manifest.v1+json'

function descriptor(mediaType: string, bytes: Buffer): object {
  return { mediaType, digest: digestOf(bytes), size: bytes.length }
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
