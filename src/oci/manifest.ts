/**
 * Manifest parser: reads from a manifest's bytes the descriptors that it references.
 *
 * The registry stores and serves the bytes verbatim. Unknown fields and types are legal, so the parser skips all that
 * is no descriptor; of a document of unknown type it takes the descriptors that make sense, and never rejects it.
 * Spec: image-spec manifest.md, image-index.md; Docker image manifest v2 schema 2.
 */
import { ATTESTATION, isIndexType, MEDIA_TYPES, type Descriptor } from './descriptor.ts'
import { isDigest } from './digest.ts'
import { OciError } from './errors.ts'
import { isObject, JsonError, parseJsonObject, type JsonObject, type Selection } from './json.ts'

export interface ManifestContent {
  /** `mediaType` of the document, else the type that its shape implies; never with parameters. */
  readonly mediaType: string
  readonly kind: 'image' | 'index' | 'artifact' | 'schema1' | 'unknown'
  readonly manifests: readonly Descriptor[]
  readonly config: Descriptor | undefined
  /** Layers of an image, blobs of an artifact; in order, duplicates included. */
  readonly layers: readonly Descriptor[]
  readonly subject: Descriptor | undefined
  /** The manifest's own, else its config's media type (images only), as the referrers API reports it. */
  readonly artifactType: string | undefined
  readonly annotations: Readonly<Record<string, string>> | undefined
}

/** No real image comes near; a document of 4 MiB could list 40,000 children. */
const MAX_CHILDREN = 10_000
/** Suffices for MAX_CHILDREN with their platforms and annotations. */
const MAX_ITEMS = 100_000
/** The parser drops annotations of a manifest beyond this number and this total length. */
const MAX_ANNOTATIONS = 256
const MAX_ANNOTATION_CHARACTERS = 64 * 1024

/** The registry acts on these two annotations alone; the client gets the others with the verbatim bytes. */
const DESCRIPTOR: Selection = {
  members: {
    mediaType: 'scalar',
    digest: 'scalar',
    size: 'scalar',
    artifactType: 'scalar',
    annotations: { members: { [ATTESTATION.type]: 'scalar', [ATTESTATION.subject]: 'scalar' } },
    // One URL suffices to know that the bytes are elsewhere; the registry never fetches from there.
    urls: { each: 'scalar', most: 1 },
  },
}
/** Reads one more than MAX_CHILDREN, so that a longer list is seen and rejected. */
const DESCRIPTORS: Selection = { each: DESCRIPTOR, most: MAX_CHILDREN + 1 }
const DOCUMENT: Selection = {
  members: {
    schemaVersion: 'scalar',
    mediaType: 'scalar',
    artifactType: 'scalar',
    signatures: 'scalar',
    annotations: { any: 'text', most: MAX_ANNOTATIONS },
    config: DESCRIPTOR,
    subject: DESCRIPTOR,
    layers: DESCRIPTORS,
    blobs: DESCRIPTORS,
    manifests: DESCRIPTORS,
  },
}
const PLATFORM_MEMBERS: Selection = { members: { os: 'scalar', architecture: 'scalar', variant: 'scalar' } }
const PLATFORMS: Selection = {
  members: { manifests: { each: { members: { digest: 'scalar', platform: PLATFORM_MEMBERS } } } },
}

/** Bytes of memory that a descriptor takes beside its strings, roughly. */
const DESCRIPTOR_WEIGHT = 512

/** RFC 6838 § 4.2. Another string could not be sent as a `Content-Type`. */
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/i

/** image-spec descriptor.md § Digests: any algorithm, registered or not. */
const ANY_DIGEST = /^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$/
const OUR_ALGORITHMS = /^sha(?:256|512):/

/** Names of systems and processors in Go's spelling. */
const PLATFORM = /^[A-Za-z0-9._-]{1,64}$/

/** Servers send these types for any content. */
const GENERIC_TYPES = /^(?:text\/.*|application\/(?:json|octet-stream)|binary\/octet-stream)$/i

/**
 * A child whose digest has an algorithm that this registry cannot verify is left out: no request could name it here.
 * A missing size is no error, because other registries hold such manifests and clients pull by digest.
 *
 * @param declaredType the `Content-Type` it came with, parameters included; the document's own `mediaType` wins
 * @throws OciError MANIFEST_INVALID when the bytes are no JSON object, or a descriptor in it is malformed
 */
export function parseManifest(bytes: Uint8Array, declaredType?: string): ManifestContent {
  const document = parseDocument(bytes)
  const mediaType = mediaTypeOf(document, declaredType)
  const kind = kindOf(mediaType)
  const facts = {
    mediaType,
    kind,
    subject: undefined,
    manifests: [],
    config: undefined,
    layers: [],
    artifactType: mediaTypeText(document['artifactType']),
    annotations: stringMap(document['annotations']),
  }
  switch (kind) {
    case 'schema1':
      return { ...facts, artifactType: undefined, annotations: undefined }
    case 'index':
      return {
        ...facts,
        manifests: descriptors(document, 'manifests'),
        subject: descriptor(document['subject'], 'subject'),
      }
    case 'image':
      return {
        ...facts,
        config: descriptor(document['config'], 'config'),
        layers: descriptors(document, 'layers'),
        subject: descriptor(document['subject'], 'subject'),
        artifactType: facts.artifactType ?? configType(document),
      }
    case 'artifact':
      return {
        ...facts,
        layers: descriptors(document, 'blobs'),
        subject: descriptor(document['subject'], 'subject'),
      }
    case 'unknown':
      return {
        ...facts,
        manifests: descriptors(document, 'manifests', false),
        config: descriptor(document['config'], 'config', false),
        layers: [...descriptors(document, 'layers', false), ...descriptors(document, 'blobs', false)],
        subject: descriptor(document['subject'], 'subject', false),
      }
  }
}

/** Bytes of memory, roughly: thousands of children take several times the size of the document. */
export function contentWeight({ config, subject, layers, manifests, annotations }: ManifestContent): number {
  let weight = DESCRIPTOR_WEIGHT
  for (const [name, text] of Object.entries(annotations ?? {})) weight += 2 * (name.length + text.length)
  for (const it of [config, subject, ...layers, ...manifests]) {
    if (it === undefined) continue
    weight += DESCRIPTOR_WEIGHT
    for (const text of [...(it.urls ?? []), ...Object.values(it.annotations ?? {})]) weight += 2 * text.length
  }
  return weight
}

/** Platform to display (`linux/arm64/v8`) by child digest; empty for a document that is no index. */
export function platformsOf(bytes: Uint8Array): ReadonlyMap<string, string> {
  const platforms = new Map<string, string>()
  let manifests: unknown
  try {
    manifests = parseJsonObject(bytes, MAX_ITEMS, PLATFORMS)['manifests']
  } catch (error) {
    if (!(error instanceof JsonError)) throw error
  }
  for (const it of Array.isArray(manifests) ? (manifests as readonly unknown[]) : []) {
    if (!isObject(it) || typeof it['digest'] !== 'string' || !isObject(it['platform'])) continue
    const { os, architecture, variant } = it['platform']
    const words = [os, architecture, variant].filter(
      (word) => typeof word === 'string' && PLATFORM.test(word),
    )
    if (words.length > 0) platforms.set(it['digest'], words.join('/'))
  }
  return platforms
}

function invalid(reason: string, cause?: unknown): OciError {
  return new OciError('MANIFEST_INVALID', { reason }, { cause })
}

function parseDocument(bytes: Uint8Array): JsonObject {
  try {
    return parseJsonObject(bytes, MAX_ITEMS, DOCUMENT)
  } catch (cause) {
    if (!(cause instanceof JsonError)) throw cause
    throw invalid(cause.message, cause.cause)
  }
}

/** A well-formed media type without its parameters, else undefined. */
function mediaTypeText(value: unknown): string | undefined {
  if (typeof value !== 'string') return undefined
  const bare = (value.split(';', 1)[0] ?? '').trim()
  return MEDIA_TYPE.test(bare) ? bare : undefined
}

function mediaTypeOf(document: JsonObject, declaredType: string | undefined): string {
  const own = mediaTypeText(document['mediaType'])
  if (own !== undefined) return own
  const declared = mediaTypeText(declaredType)
  if (declared !== undefined && !GENERIC_TYPES.test(declared)) return declared
  return typeByShape(document) ?? declared ?? 'application/octet-stream'
}

/** A document without a useful type is Docker's if its children or config are; otherwise it is OCI's. */
function typeByShape(document: JsonObject): string | undefined {
  if (document['schemaVersion'] === 1) {
    return 'signatures' in document ? MEDIA_TYPES.dockerSchema1Signed : MEDIA_TYPES.dockerSchema1
  }
  const manifests = document['manifests']
  if (Array.isArray(manifests)) {
    const first: unknown = manifests[0]
    const docker = isObject(first) && first['mediaType'] === MEDIA_TYPES.dockerManifest
    return docker ? MEDIA_TYPES.dockerIndex : MEDIA_TYPES.ociIndex
  }
  if (isObject(document['config'])) {
    const docker = configType(document)?.startsWith('application/vnd.docker.') ?? false
    return docker ? MEDIA_TYPES.dockerManifest : MEDIA_TYPES.ociManifest
  }
  if (Array.isArray(document['layers'])) return MEDIA_TYPES.ociManifest
  if (Array.isArray(document['blobs'])) return MEDIA_TYPES.ociArtifact
  return undefined
}

function kindOf(mediaType: string): ManifestContent['kind'] {
  if (isIndexType(mediaType)) return 'index'
  switch (mediaType) {
    case MEDIA_TYPES.ociManifest:
    case MEDIA_TYPES.dockerManifest:
      return 'image'
    case MEDIA_TYPES.ociArtifact:
      return 'artifact'
    case MEDIA_TYPES.dockerSchema1:
    case MEDIA_TYPES.dockerSchema1Signed:
      return 'schema1'
    default:
      return 'unknown'
  }
}

/** Reads the document: the config's type counts even where its digest algorithm is unknown and it is left out. */
function configType(document: JsonObject): string | undefined {
  const config = document['config']
  return isObject(config) ? mediaTypeText(config['mediaType']) : undefined
}

function descriptors(document: JsonObject, field: string, strict = true): Descriptor[] {
  const value = document[field]
  // Go writes an empty list as null.
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) {
    if (strict) throw invalid(`${field} is not a list`)
    return []
  }
  if (value.length > MAX_CHILDREN) throw invalid(`${field} names more than ${MAX_CHILDREN}`)
  return value
    .map((child: unknown) => {
      if (strict && (child === undefined || child === null)) throw invalid(`${field} has an empty entry`)
      return descriptor(child, field, strict)
    })
    .filter((child) => child !== undefined)
}

function descriptor(value: unknown, field: string, strict = true): Descriptor | undefined {
  if (value === undefined || value === null) return undefined
  const problem = problemOf(value)
  if (problem !== undefined) {
    if (strict) throw invalid(`${field}: ${problem}`)
    return undefined
  }
  const { digest, size, mediaType, artifactType, annotations, urls } = value as JsonObject
  if (!isDigest(digest as string)) return undefined
  const strings = Array.isArray(urls) ? urls.filter((url) => typeof url === 'string') : undefined
  const told = (size ?? undefined) as number | undefined
  // In a document of unknown type, an object without a size is no descriptor.
  if (told === undefined && !strict) return undefined
  const artifact = mediaTypeText(artifactType)
  const map = stringMap(annotations)
  return {
    // The specification requires it, some old documents lack it; no decision depends on the default.
    mediaType: mediaTypeText(mediaType) ?? 'application/octet-stream',
    digest: digest as Descriptor['digest'],
    size: told,
    ...(artifact === undefined ? {} : { artifactType: artifact }),
    ...(map === undefined ? {} : { annotations: map }),
    ...(strings === undefined ? {} : { urls: strings }),
  }
}

function problemOf(value: unknown): string | undefined {
  if (!isObject(value)) return 'not a descriptor'
  const { digest, size, mediaType } = value
  if (typeof digest !== 'string' || !ANY_DIGEST.test(digest)) return 'malformed digest'
  if (OUR_ALGORITHMS.test(digest) && !isDigest(digest)) return 'malformed digest'
  if (size !== undefined && size !== null && (!Number.isSafeInteger(size) || (size as number) < 0)) {
    return 'malformed size'
  }
  if (mediaType !== undefined && mediaType !== null && typeof mediaType !== 'string')
    return 'malformed mediaType'
  return undefined
}

/** Drops values that are no strings (the specification forbids them) and entries beyond the limit of length. */
function stringMap(value: unknown): Record<string, string> | undefined {
  if (!isObject(value)) return undefined
  let room = MAX_ANNOTATION_CHARACTERS
  const strings = Object.entries(value).filter((entry): entry is [string, string] => {
    const [name, text] = entry
    if (typeof text !== 'string' || name.length + text.length > room) return false
    room -= name.length + text.length
    return true
  })
  return Object.fromEntries(strings)
}
