/**
 * Documents that are made to hurt whoever reads them.
 */
import { createHash } from 'node:crypto'

const MiB = 1024 * 1024
const MOST = 4 * MiB

interface HostileManifest {
  readonly name: string
  readonly bytes: Buffer
  /** It is a manifest all the same, and passes untouched. */
  readonly taken: boolean
}

const DIGEST = `sha256:${createHash('sha256').update('a layer').digest('hex')}`
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
const LAYER = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: DIGEST, size: 1 }

/** An image manifest with these members. */
function manifest(members: Record<string, unknown>): Buffer {
  const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: DIGEST, size: 2 }
  return Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST, config, layers: [], ...members }),
  )
}

/** `head`, then `item` until 4 MiB are full, then `tail`. */
function filled(head: string, item: string, tail: string): Buffer {
  const count = Math.floor((MOST - head.length - tail.length) / item.length)
  return Buffer.from(head + item.repeat(count) + tail)
}

function manyKeys(): string {
  let text = ''
  for (let key = 0; text.length < MOST - 200; key += 1) text += `"k${key}":0,`
  return text
}

function layersOf(size: string): Buffer {
  return Buffer.from(
    manifest({ layers: [LAYER] })
      .toString()
      .replace('"size":1}', `"size":${size}}`),
  )
}

const HEAD = `{"schemaVersion":2,"mediaType":"${MANIFEST}",`

export const HOSTILE_MANIFESTS: readonly HostileManifest[] = [
  { name: 'brackets', bytes: filled('{"a":', '[', ''), taken: false },
  { name: 'closed brackets', bytes: Buffer.from(`{"a":${'['.repeat(MiB)}${']'.repeat(MiB)}}`), taken: false },
  { name: 'braces', bytes: filled('{"a":', '{"a":', ''), taken: false },
  { name: 'a string that never ends', bytes: filled(`${HEAD}"a":"`, 'a', ''), taken: false },
  { name: '25,000 layers', bytes: manifest({ layers: Array(25_000).fill(LAYER) }), taken: false },
  { name: 'layers of nothing', bytes: filled(`${HEAD}"layers":[0`, ',0', ']}'), taken: false },
  { name: 'a list of numbers', bytes: filled(`${HEAD}"a":[0`, ',0', ']}'), taken: false },
  { name: 'many keys', bytes: Buffer.from(`${HEAD}${manyKeys()}"layers":[]}`), taken: false },
  {
    name: 'many annotations',
    bytes: Buffer.from(`${HEAD}"annotations":{${manyKeys()}"k":"v"}}`),
    taken: false,
  },
  { name: 'one key again and again', bytes: filled(`${HEAD}"a":0`, ',"a":0', '}'), taken: false },
  { name: 'escapes', bytes: filled(`${HEAD}"a":"`, '\\u0000', '"}'), taken: true },
  { name: 'duplicate keys', bytes: Buffer.from(`${HEAD}"layers":7,"layers":[]}`), taken: true },
  {
    name: '__proto__',
    bytes: Buffer.from(
      `${HEAD}"__proto__":{"layers":7,"polluted":1},"constructor":{"prototype":{"polluted":1}},` +
        `"annotations":{"__proto__":"x"},"layers":[]}`,
    ),
    taken: true,
  },
  { name: 'layers are no list', bytes: manifest({ layers: { length: 1, 0: LAYER } }), taken: false },
  { name: 'layers are text', bytes: manifest({ layers: 'none' }), taken: false },
  { name: 'a layer is a list', bytes: manifest({ layers: [[LAYER]] }), taken: false },
  {
    name: 'a digest is a path',
    bytes: manifest({ layers: [{ ...LAYER, digest: 'sha256:../../x' }] }),
    taken: false,
  },
  { name: 'a digest is a number', bytes: manifest({ layers: [{ ...LAYER, digest: 7 }] }), taken: false },
  { name: 'a size is negative', bytes: layersOf('-1'), taken: false },
  { name: 'a size is no whole number', bytes: layersOf('1.5'), taken: false },
  { name: 'a size is text', bytes: layersOf('"1"'), taken: false },
  { name: 'a size beyond 2^53', bytes: layersOf('9007199254740993'), taken: false },
  { name: 'a size beyond any number', bytes: layersOf('1e400'), taken: false },
  { name: 'a size that is no number', bytes: layersOf('NaN'), taken: false },
  {
    name: 'not UTF-8',
    bytes: Buffer.concat([Buffer.from('{"a":"'), Buffer.from([0xc3, 0x28]), Buffer.from('"}')]),
    taken: false,
  },
  { name: 'half of one', bytes: manifest({}).subarray(0, 100), taken: false },
]
