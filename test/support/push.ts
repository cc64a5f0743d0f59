/**
 * A client that pushes, request by request.
 */
import { request } from 'undici'
import type { Content, Image } from './images.ts'

export interface Pushed {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly body: Buffer
}

type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

export async function send(
  url: string,
  method: Method,
  body: Buffer | string | null = null,
  headers: Record<string, string> = {},
): Promise<Pushed> {
  const answer = await request(url, { method, body, headers, headersTimeout: 60_000 })
  return {
    status: answer.statusCode,
    headers: answer.headers,
    body: Buffer.from(await answer.body.arrayBuffer()),
  }
}

/** `repository` is the URL up to the name: `http://127.0.0.1:5000/v2/team/app`. */
export async function pushBlob(repository: string, blob: Content): Promise<Pushed> {
  const begun = await send(`${repository}/blobs/uploads/`, 'POST')
  if (begun.status !== 202) return begun
  const location = new URL(String(begun.headers['location']), repository)
  location.searchParams.set('digest', blob.digest)
  return send(location.href, 'PUT', blob.bytes, { 'content-type': 'application/octet-stream' })
}

/** A PUT of what `reference` is to name; default: by its digest. */
export async function pushManifest(
  repository: string,
  manifest: Content,
  reference: string = manifest.digest,
): Promise<Pushed> {
  return send(`${repository}/manifests/${reference}`, 'PUT', manifest.bytes, {
    'content-type': manifest.mediaType,
  })
}

/** Blobs first, then the manifests, children before their index. The first refusal, else the last answer. */
export async function pushImage(repository: string, image: Image, tag?: string): Promise<Pushed> {
  for (const blob of image.blobs) {
    const answer = await pushBlob(repository, blob)
    if (answer.status !== 201) return answer
  }
  let last: Pushed | undefined
  for (const manifest of image.manifests) {
    const top = manifest === image.manifest
    last = await pushManifest(repository, manifest, top ? tag : undefined)
    if (last.status !== 201) return last
  }
  if (last === undefined) throw new Error('an image without manifests')
  return last
}
