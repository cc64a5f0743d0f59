/** Reading what a manifest names. */
import fc from 'fast-check'
import { test } from 'tap'
import { isNonDistributable, MEDIA_TYPES } from '../../src/oci/descriptor.ts'
import { digestOf, isDigest } from '../../src/oci/digest.ts'
import { OciError } from '../../src/oci/errors.ts'
import { contentWeight, parseManifest, type ManifestContent } from '../../src/oci/manifest.ts'

const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip'
const CONFIG = 'application/vnd.oci.image.config.v1+json'
const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json'

function named(text: string, mediaType = LAYER, more: Record<string, unknown> = {}) {
  return { mediaType, digest: digestOf(Buffer.from(text)), size: text.length, ...more }
}

function parse(document: unknown, declaredType?: string): ManifestContent {
  return parseManifest(Buffer.from(JSON.stringify(document)), declaredType)
}

test('a Docker image names its config and its layers, in order and with their duplicates', (t) => {
  const content = parse(
    {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.dockerManifest,
      config: named('config', DOCKER_CONFIG),
      layers: [named('one'), named('two'), named('one')],
    },
    'application/json',
  )
  t.equal(content.kind, 'image')
  t.equal(content.mediaType, MEDIA_TYPES.dockerManifest)
  t.equal(content.artifactType, DOCKER_CONFIG)
  t.same(content.config, named('config', DOCKER_CONFIG))
  t.same(content.layers, [named('one'), named('two'), named('one')])
  t.same(content.manifests, [])
  t.equal(content.subject, undefined)
  t.end()
})

const ATTESTED = {
  'vnd.docker.reference.type': 'attestation-manifest',
  'vnd.docker.reference.digest': digestOf(Buffer.from('attested')),
}

test('an index names manifests, with their artifact types and what they attest', (t) => {
  const child = named('child', MEDIA_TYPES.ociManifest, {
    artifactType: 'application/x.sbom',
    annotations: { a: 'b', ...ATTESTED, __proto__: null },
    platform: { os: 'linux', architecture: 'arm64' },
    data: 'e30=',
  })
  const content = parse({
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociIndex,
    manifests: [child],
    layers: 'ignored',
  })
  t.equal(content.kind, 'index')
  t.same(content.manifests, [
    named('child', MEDIA_TYPES.ociManifest, {
      artifactType: 'application/x.sbom',
      annotations: ATTESTED,
    }),
  ])
  t.equal(content.artifactType, undefined, 'an index has only its own')
  t.same(content.layers, [])
  t.equal(parse({ mediaType: MEDIA_TYPES.dockerIndex, manifests: null }).kind, 'index')
  t.end()
})

test('an OCI image has a subject, annotations and the artifact type of its config', (t) => {
  const document = {
    mediaType: MEDIA_TYPES.ociManifest,
    config: named('{}', 'application/vnd.oci.empty.v1+json'),
    layers: [],
    subject: named('subject', MEDIA_TYPES.ociManifest),
    annotations: { 'org.example': 'x', number: 1 },
  }
  const content = parse(document)
  t.same(content.subject, named('subject', MEDIA_TYPES.ociManifest))
  t.equal(content.artifactType, 'application/vnd.oci.empty.v1+json')
  t.same(content.annotations, { 'org.example': 'x' }, 'values that are no strings are passed over')
  t.equal(parse({ ...document, artifactType: 'application/x.own' }).artifactType, 'application/x.own')
  t.end()
})

test('an artifact manifest names blobs', (t) => {
  const content = parse({ mediaType: MEDIA_TYPES.ociArtifact, artifactType: 'a/b', blobs: [named('blob')] })
  t.match(content, { kind: 'artifact', artifactType: 'a/b', layers: [named('blob')], config: undefined })
  t.end()
})

test('schema 1 is recognised and names nothing', (t) => {
  const document = { schemaVersion: 1, name: 'a', fsLayers: [{ blobSum: 'x' }] }
  t.match(parse(document), { kind: 'schema1', mediaType: MEDIA_TYPES.dockerSchema1, layers: [] })
  const signed = parse({ ...document, signatures: [{}] }, 'text/plain')
  t.match(signed, { kind: 'schema1', mediaType: MEDIA_TYPES.dockerSchema1Signed })
  t.end()
})

test('the document says what it is; then the header, unless it says nothing; then the shape', (t) => {
  const image = { config: named('c', CONFIG), layers: [] }
  const type = (document: unknown, declared?: string): string => parse(document, declared).mediaType
  t.equal(
    type({ ...image, mediaType: MEDIA_TYPES.ociManifest }, MEDIA_TYPES.dockerManifest),
    MEDIA_TYPES.ociManifest,
  )
  t.equal(type(image, `${MEDIA_TYPES.dockerManifest}; charset=utf-8`), MEDIA_TYPES.dockerManifest)
  for (const generic of [
    'application/json',
    'text/plain; charset=utf-8',
    'application/octet-stream',
    'nonsense',
    '',
  ]) {
    t.equal(type(image, generic), MEDIA_TYPES.ociManifest, generic)
  }
  t.equal(type({ config: named('c', DOCKER_CONFIG), layers: [] }), MEDIA_TYPES.dockerManifest)
  t.equal(type({ layers: [] }), MEDIA_TYPES.ociManifest)
  t.equal(type({ manifests: [] }), MEDIA_TYPES.ociIndex)
  t.equal(type({ manifests: [named('m', MEDIA_TYPES.dockerManifest)] }), MEDIA_TYPES.dockerIndex)
  t.equal(type({ blobs: [] }), MEDIA_TYPES.ociArtifact)
  t.equal(
    type({ mediaType: 'a/b\r\nx: y', manifests: [] }),
    MEDIA_TYPES.ociIndex,
    'never what no header could hold',
  )
  t.equal(type({ mediaType: 'application/x.y+json ; v=1' }), 'application/x.y+json', 'never with parameters')
  t.match(parse({ hello: 1 }, 'application/json'), { kind: 'unknown', mediaType: 'application/json' })
  t.match(parse({}), { kind: 'unknown', mediaType: 'application/octet-stream' })
  t.end()
})

test('of an unknown type only what makes sense is taken', (t) => {
  const content = parse({
    mediaType: 'application/vnd.acme.thing.v3+json',
    config: 7,
    layers: [named('layer'), 'nonsense', null, { digest: 'x' }],
    manifests: { no: 'list' },
    blobs: [named('blob')],
    subject: named('subject'),
  })
  t.match(content, { kind: 'unknown', config: undefined, manifests: [], subject: named('subject') })
  t.same(content.layers, [named('layer'), named('blob')])
  t.end()
})

test('a child of an algorithm we cannot verify is left out', (t) => {
  const odd = { mediaType: LAYER, digest: 'blake3:abc', size: 1 }
  const content = parse({
    mediaType: MEDIA_TYPES.ociManifest,
    config: { ...odd, mediaType: CONFIG },
    layers: [odd, named('layer')],
    subject: odd,
  })
  t.match(content, { config: undefined, layers: [named('layer')], subject: undefined, artifactType: CONFIG })
  t.equal(content.layers.length, 1)
  t.end()
})

test('a malformed descriptor makes a known manifest invalid', (t) => {
  const bad: unknown[] = [
    'text',
    7,
    [],
    {},
    { digest: 7, size: 1 },
    { digest: 'sha256:abc', size: 1 },
    { digest: `sha256:${'A'.repeat(64)}`, size: 1 },
    { digest: 'nocolon', size: 1 },
    { ...named('x'), size: -1 },
    { ...named('x'), size: 1.5 },
    { ...named('x'), size: 2 ** 53 },
    { ...named('x'), size: '1' },
    { ...named('x'), mediaType: 7 },
  ]
  for (const descriptor of bad) {
    const where = JSON.stringify(descriptor)
    for (const document of [
      { mediaType: MEDIA_TYPES.ociManifest, config: descriptor, layers: [] },
      { mediaType: MEDIA_TYPES.dockerManifest, layers: [named('x'), descriptor] },
      { mediaType: MEDIA_TYPES.ociIndex, manifests: [descriptor] },
      { mediaType: MEDIA_TYPES.ociIndex, subject: descriptor },
      { mediaType: MEDIA_TYPES.ociArtifact, blobs: [descriptor] },
    ]) {
      t.throws(() => parse(document), { code: 'MANIFEST_INVALID', status: 400 }, where)
    }
  }
  t.throws(() => parse({ mediaType: MEDIA_TYPES.ociIndex, manifests: {} }), { code: 'MANIFEST_INVALID' })
  t.throws(() => parse({ mediaType: MEDIA_TYPES.ociIndex, manifests: [null] }), { code: 'MANIFEST_INVALID' })
  t.end()
})

test('a size that is not told is unknown, and what only looks like a descriptor names nothing', (t) => {
  for (const size of [null, undefined]) {
    const unsized = { ...named('x'), size }
    const { config, layers } = parse({
      mediaType: MEDIA_TYPES.ociManifest,
      config: unsized,
      layers: [unsized],
    })
    t.same([config?.digest, config?.size], [unsized.digest, undefined])
    t.same([layers[0]?.digest, layers[0]?.size], [unsized.digest, undefined])
    t.same(parse({ mediaType: 'application/vnd.example', layers: [unsized] }).layers, [])
  }
  t.end()
})

test('a descriptor keeps its urls and may lack a media type', (t) => {
  const foreign = named('windows', 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip', {
    urls: ['https://mcr.example/x', 7],
  })
  const bare = { digest: named('bare').digest, size: 4 }
  const { layers } = parse({ mediaType: MEDIA_TYPES.dockerManifest, layers: [foreign, bare] })
  t.same(layers[0]?.urls, ['https://mcr.example/x'])
  t.ok(layers[0] && isNonDistributable(layers[0]))
  t.equal(layers[1]?.mediaType, 'application/octet-stream')
  t.end()
})

test('of annotations only so many are read, and of those that decide nothing none', (t) => {
  const many = Object.fromEntries(Array.from({ length: 5000 }, (_, at) => [`a${at}`, 'b']))
  const document = (annotations: object) => ({
    mediaType: MEDIA_TYPES.ociManifest,
    config: named('c', CONFIG, { annotations }),
    layers: [named('x', LAYER, { annotations })],
    annotations,
  })
  const read = parse(document(many))
  t.equal(Object.keys(read.annotations ?? {}).length, 256)
  t.same(read.layers[0]?.annotations, {})
  const long = parse(
    document({ long: 'x'.repeat(100_000), half: 'x'.repeat(40_000), other: 'x'.repeat(40_000), last: 'y' }),
  )
  t.same(Object.keys(long.annotations ?? {}), ['half', 'last'])
  const plain = contentWeight(parse(document({ a: 'b' })))
  t.ok(contentWeight(read) < plain + 10_000)
  t.ok(contentWeight(parse({ ...document({}), layers: Array(1000).fill(named('x')) })) > 200_000)
  t.end()
})

test('a manifest that names too many children is refused', (t) => {
  const layers = (count: number): unknown => ({
    mediaType: MEDIA_TYPES.ociManifest,
    layers: Array(count).fill(named('x')),
  })
  t.equal(parse(layers(10_000)).layers.length, 10_000)
  t.throws(() => parse(layers(10_001)), { code: 'MANIFEST_INVALID' })
  t.end()
})

test('what is no JSON object is no manifest', (t) => {
  for (const text of ['', 'null', '[]', '7', '"x"', '{', '<html>', '{"a":1}x', '[['.repeat(100_000)]) {
    t.throws(() => parseManifest(Buffer.from(text)), { code: 'MANIFEST_INVALID' }, text.slice(0, 20))
  }
  t.throws(() => parseManifest(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), {
    code: 'MANIFEST_INVALID',
  })
  t.end()
})

test('no document makes it throw anything but its error, and every child has a digest and, if any, a real size', (t) => {
  const sane = fc.record({
    mediaType: fc.oneof(fc.string(), fc.constant(LAYER)),
    digest: fc.uint8Array({ maxLength: 4 }).map((bytes) => digestOf(bytes)),
    size: fc.nat(),
    annotations: fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.jsonValue())),
    urls: fc.jsonValue(),
  })
  const value = fc.oneof(sane, fc.array(sane, { maxLength: 4 }), fc.jsonValue({ maxDepth: 3 }))
  const document = fc.record(
    {
      schemaVersion: fc.constantFrom(1, 2, '2', null),
      mediaType: fc.oneof(fc.constantFrom(...Object.values(MEDIA_TYPES)), fc.string(), fc.jsonValue()),
      config: value,
      layers: value,
      manifests: value,
      blobs: value,
      subject: value,
      artifactType: fc.oneof(fc.string(), fc.jsonValue()),
      annotations: fc.jsonValue(),
    },
    { requiredKeys: [] },
  )
  const text = fc.oneof(
    { weight: 8, arbitrary: document.map((all) => JSON.stringify(all)) },
    fc.json(),
    fc.string({ unit: 'binary' }),
  )
  let read = 0
  fc.assert(
    fc.property(text, fc.option(fc.string(), { nil: undefined }), (json, declared) => {
      try {
        const content = parseManifest(Buffer.from(json), declared)
        read++
        const children = [content.config, content.subject, ...content.layers, ...content.manifests]
        return (
          /^[\x21-\x7e]+\/[\x21-\x7e]+$/.test(content.mediaType) &&
          !content.mediaType.includes(';') &&
          children.every((child) => !child || (isDigest(child.digest) && isSize(child.size)))
        )
      } catch (error) {
        return error instanceof OciError && error.code === 'MANIFEST_INVALID'
      }
    }),
    { numRuns: 1500 },
  )
  t.ok(read > 100, `${read} documents were read`)
  t.end()
})

function isSize(size: number | undefined): boolean {
  return size === undefined || (Number.isSafeInteger(size) && size >= 0)
}
