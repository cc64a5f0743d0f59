/**
 * What a manifest's bytes mention.
 *
 * The bytes themselves are kept and served verbatim; this only reads them. Unknown fields and types are
 * legal, so everything that is not a descriptor is passed over, and what a document of an unknown type seems
 * to name is taken where it makes sense and never refused.
 * Spec: image-spec manifest.md, image-index.md; Docker image manifest v2 schema 2.
 */
import { ATTESTATION, isIndexType, MEDIA_TYPES, type Descriptor } from './descriptor.ts'
import { isDigest } from './digest.ts'
import { OciError } from './errors.ts'
import { isObject, JsonError, parseJsonObject, type JsonObject, type Selection } from './json.ts'

export interface ManifestContent {
  /** `mediaType` of the document, else the type its shape tells; never with parameters. */
  readonly mediaType: string
  readonly kind: 'image' | 'index' | 'artifact' | 'schema1' | 'unknown'
  /** Manifests an index names. */
  readonly manifests: readonly Descriptor[]
  readonly config: Descriptor | undefined
  /** Layers of an image, blobs of an artifact; in order, duplicates included. */
  readonly layers: readonly Descriptor[]
  readonly subject: Descriptor | undefined
  /** As the referrers API reports it: the manifest's own, else its config's media type (images only). */
  readonly artifactType: string | undefined
  readonly annotations: Readonly<Record<string, string>> | undefined
}

/** Far above any real image; a document of 4 MiB could name 40,000. */
const MAX_CHILDREN = 10_000
/** Room for so many children, each with its platform and annotations. */
const MAX_ITEMS = 100_000
/** Of the annotations of a manifest so many are read, and of them as many as have room in so many characters. */
const MAX_ANNOTATIONS = 256
const MAX_ANNOTATION_CHARACTERS = 64 * 1024

/**
 * Of the annotations of a child only those that decide something here: what is pulled brings the others along verbatim.
 */
const DESCRIPTOR: Selection = {
  members: {
    mediaType: 'scalar',
    digest: 'scalar',
    size: 'scalar',
    artifactType: 'scalar',
    annotations: { members: { [ATTESTATION.type]: 'scalar', [ATTESTATION.subject]: 'scalar' } },
    // One says that the bytes may be had elsewhere; nobody goes there.
    urls: { each: 'scalar', most: 1 },
  },
}
/** One more than may be, to be refused. */
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

/** What a descriptor weighs in memory beside its texts, about. */
const DESCRIPTOR_WEIGHT = 512

/** RFC 6838 § 4.2. What does not match could not be sent as a `Content-Type`. */
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/i

/** image-spec descriptor.md § Digests: any algorithm, registered or not. */
const ANY_DIGEST = /^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$/
const OUR_ALGORITHMS = /^sha(?:256|512):/

/** As Go names systems and processors. */
const PLATFORM = /^[A-Za-z0-9._-]{1,64}$/

/** Types that servers give to anything. */
const GENERIC_TYPES = /^(?:text\/.*|application\/(?:json|octet-stream)|binary\/octet-stream)$/i

/**
 * A child whose digest is of an algorithm we cannot verify is left out: no request could name it here. One without a
 * size is no reason to refuse what others hold: clients pull by digests.
 *
 * @param declaredType the `Content-Type` it came with, parameters and all; the document's own `mediaType` wins
 * @throws OciError MANIFEST_INVALID when it is not JSON of an object, or a descriptor in it is malformed
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

/** What it weighs in memory, about: of a manifest that names thousands several times what its bytes do. */
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

/** For people: `linux/arm64/v8`, by the digest of the manifest that an index names so. Nothing for what is no index. */
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

/** For documents that came without any useful type: OCI ones may, Docker ones are told by what they name. */
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

/** From the document itself: a config may name an algorithm we leave out, and its type counts all the same. */
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
  // What only looks like a descriptor, in a document of who knows what, names nothing.
  if (told === undefined && !strict) return undefined
  const artifact = mediaTypeText(artifactType)
  const map = stringMap(annotations)
  return {
    // Required by the specification, absent in some old documents; nothing is decided by guessing it.
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

/** Only its strings, as many as have room: the specification allows nothing else. */
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
